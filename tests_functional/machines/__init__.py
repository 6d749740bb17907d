"""Tests snapshots of guests on other machine types than the usual one, and with UEFI firmware."""
