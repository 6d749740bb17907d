"""Tests of tests_functional/ram_blocks."""
