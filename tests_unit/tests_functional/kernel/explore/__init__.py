"""Unit tests of tests_functional/kernel/explore/."""
