"""Snapshots in a row and of one another: nothing may add up."""
