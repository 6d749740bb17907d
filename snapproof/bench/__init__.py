"""Benchmarks: cost of a save, waits of the guest's writes, speed of the validators, and the A/B gate."""
