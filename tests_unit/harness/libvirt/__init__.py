"""Unit tests of harness/attach/."""
