"""Unit tests of validators/faults/."""
