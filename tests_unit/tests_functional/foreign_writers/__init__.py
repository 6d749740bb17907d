"""Unit tests of tests_functional/foreign_writers/."""
