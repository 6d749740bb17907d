"""Faults and helpers that are preloaded into QEMU as a library: how one is built, and its count of acts."""
