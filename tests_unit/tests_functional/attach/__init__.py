"""Unit tests of tests_functional/attach/."""
