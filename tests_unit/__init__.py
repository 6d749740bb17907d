"""Tests that need no VM, except those marked ``vm``."""
