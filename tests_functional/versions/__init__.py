"""Snapshots that cross from one QEMU to another."""
