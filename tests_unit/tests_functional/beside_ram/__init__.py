"""Unit tests of tests_functional/beside_ram."""
