"""Unit tests of tests_functional/hosts/."""
