"""Unit tests of validators/vmstate/."""
