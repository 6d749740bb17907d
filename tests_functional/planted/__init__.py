"""Planted faults: runs that must turn red, with the right page named."""
