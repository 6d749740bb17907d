"""Benchmarks: the cost of saving a guest, the waits of its writes, the validators, and the A/B gate."""
