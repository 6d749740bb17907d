"""Prove the background snapshot of a VM that somebody else runs, and test that on VMs of our own."""
