"""Snapshots of guests whose devices have something in flight at T0."""
