"""Planted faults: in files, in QEMU's calls, in its live path, and in its speed."""
