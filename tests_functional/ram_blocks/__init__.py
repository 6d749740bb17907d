"""Tests that each kind of RAMBlock of a machine is saved as it was at T0, whatever writes to it."""
