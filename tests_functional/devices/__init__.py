"""Puts each device that a QEMU can create into a guest, and saves and restores it."""
