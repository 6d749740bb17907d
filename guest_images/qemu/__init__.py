"""QEMU builds from their packages, each with its own libraries and firmware."""
