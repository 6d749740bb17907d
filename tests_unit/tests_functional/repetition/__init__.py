"""Unit tests of tests_functional/repetition/."""
