"""Unit tests of validators/."""
