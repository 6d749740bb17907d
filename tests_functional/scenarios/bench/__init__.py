"""Measures what saving a guest costs: the ways of saving, the writers meanwhile, one sample at a time."""
