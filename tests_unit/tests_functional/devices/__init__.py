"""Unit tests of tests_functional/devices/."""
