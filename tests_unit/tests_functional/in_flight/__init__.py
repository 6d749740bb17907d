"""Tests of tests_functional/in_flight/."""
