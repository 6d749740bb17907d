"""Unit tests of tests_functional/failures/."""
