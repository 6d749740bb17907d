"""Sizes of a guest: how much RAM it has, and which share of it the writers fill."""

from __future__ import annotations

COVERAGE = 0.85
"""Share of guest RAM that the writers fill, unless a test says otherwise."""

QEMU_MIB = 150
"""RAM of the host in MiB that a QEMU takes beside its guest's: about 150 MiB under TCG with 512 MiB of RAM
(QEMU 10.0.13, resident set), most of them libraries and the buffer for generated code."""

GUESTS_AT_ONCE = 2
"""Guests that a test has at once at most: the source and the restored one."""

_STEP_MIB = 128


def fitting_ram(ram_mib: int, coverage: float, own_mib: int, multiple_mib: int = 1) -> int:
    """Return RAM in MiB, at least `ram_mib`, of which the writers' share leaves the guest its own need.

    It grows in steps that keep it odd, or divisible into equal parts, where it was so and the machine type
    takes any size.

    Args:
        ram_mib: the RAM that a test asks for.
        coverage: the writers' share of it.
        own_mib: what the guest needs beside them.
        multiple_mib: the result is a multiple of this.
    """
    while ram_mib * (1 - coverage) < own_mib:
        ram_mib += _STEP_MIB
    return -(-ram_mib // multiple_mib) * multiple_mib


def fitting_coverage(ram_mib: int, own_mib: int) -> float:
    """Return the share of RAM, at most COVERAGE, that the writers can fill beside the guest's own need."""
    return min(COVERAGE, (ram_mib - own_mib) / ram_mib)
