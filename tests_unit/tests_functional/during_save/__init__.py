"""Tests of tests_functional/during_save/."""
