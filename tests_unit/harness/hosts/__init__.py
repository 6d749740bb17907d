"""Unit tests of harness/hosts/."""
