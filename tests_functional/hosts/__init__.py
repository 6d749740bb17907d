"""Tests other hosts: their kernel's features, and snapshots that are saved there and judged here."""
