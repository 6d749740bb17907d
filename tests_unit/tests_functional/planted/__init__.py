"""Unit tests of tests_functional/planted/."""
