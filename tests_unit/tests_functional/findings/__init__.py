"""Unit tests of tests_functional/findings/."""
