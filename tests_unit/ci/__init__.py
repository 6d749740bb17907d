"""Unit tests of ci/."""
