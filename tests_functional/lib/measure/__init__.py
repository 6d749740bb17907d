"""Measures the cost of saving a guest, one sample at a time, for each way of saving and each writer."""
