"""Tests snapshots of a running guest on a healthy host: by every flow, with other writers, with timers."""
