"""Snapshots taken on other hosts, and judged here."""
