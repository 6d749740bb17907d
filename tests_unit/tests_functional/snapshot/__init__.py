"""Unit tests of tests_functional/snapshot/."""
