"""Unit tests of tests_functional/refusals/."""
