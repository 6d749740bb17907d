"""Guests that stand still when they are snapshotted."""
