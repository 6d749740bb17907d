"""Tests snapshots of guests whose vCPUs stand still."""
