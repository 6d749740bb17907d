"""Unit tests of tests_functional/offline/."""
