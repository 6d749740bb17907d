"""QEMU as a program: what it emulates, how it is started and what it says."""
