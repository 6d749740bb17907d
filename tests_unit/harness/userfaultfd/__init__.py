"""Unit tests of harness/userfaultfd/."""
