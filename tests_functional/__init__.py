"""Scenarios on real guests, and the Avocado tests that run them."""
