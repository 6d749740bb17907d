"""Unit tests of harness/linux/."""
