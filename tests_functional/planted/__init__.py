"""Tests the oracles: a fault planted in QEMU or in a file must be caught, and its cause named."""
