"""Tests repeated snapshots: in a row, of restored guests, and together with the guest's disk."""
