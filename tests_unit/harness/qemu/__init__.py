"""Unit tests of harness/qemu/."""
