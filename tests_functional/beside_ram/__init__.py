"""Tests that state which a machine keeps beside RAM is in a snapshot as it was at T0."""
