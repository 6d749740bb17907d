"""Tests that each kind of RAMBlock of a machine is saved as it was at T0, by each way to write to it."""
