"""Measures the cost of saving a guest: ways of saving, writers meanwhile, one sample at a time."""
