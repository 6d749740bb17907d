"""Tests of snapshots in a row, and of guests restored from a snapshot."""
