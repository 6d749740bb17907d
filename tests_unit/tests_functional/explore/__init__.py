"""Tests of tests_functional/explore/."""
