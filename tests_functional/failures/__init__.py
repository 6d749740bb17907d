"""Snapshots that go wrong: what breaks and when, and what QEMU owes its user then."""
