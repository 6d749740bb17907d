"""Processor architectures of hosts: what Debian, the dynamic loader and QEMU call them, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        debian: its name in Debian's archive.
        triplet: the folder below `lib` and `usr/lib` that holds its libraries.
        loader: file name of its dynamic loader.
        loader_folder: where programs expect the loader.
        qemu: the QEMU executable that emulates it.
        machine: QEMU's machine type with PCI.
        machine_arguments: further arguments for QEMU.
        console: the serial port's device in the kernel.
    """

    debian: str
    triplet: str
    loader: str
    loader_folder: str
    qemu: str = "qemu-system-x86_64"
    machine: str = "pc"
    machine_arguments: tuple[str, ...] = ()
    console: str = "ttyS0"


AMD64 = Architecture("amd64", "x86_64-linux-gnu", "ld-linux-x86-64.so.2", "lib64")
I386 = Architecture("i386", "i386-linux-gnu", "ld-linux.so.2", "lib")
ARM64 = Architecture(
    "arm64",
    "aarch64-linux-gnu",
    "ld-linux-aarch64.so.1",
    "lib",
    qemu="qemu-system-aarch64",
    machine="virt",
    machine_arguments=("-cpu", "max"),
    console="ttyAMA0",
)

ARCHITECTURES = {entry.debian: entry for entry in (AMD64, I386, ARM64)}
"""By Debian's name."""
