"""Unit tests of tests_functional/run_states/."""
