"""Unit tests of tests_functional/lib/."""
