"""Tests snapshots of guests that are paused or suspended."""
