"""Snapshots of a healthy guest on a healthy host: the flows that must simply work."""
