"""Reads and writes I/O ports of an x86 guest from outside, by commands of QEMU's human monitor."""

from __future__ import annotations

import re

from harness.errors import SetupBroken
from harness.qemu.machine import Machine

# QEMU monitor/hmp-cmds.c hmp_ioport_read(): "portb[0x0cfc] = 0x86".
_ANSWER = re.compile(r"=\s*(?:0x)?([0-9a-f]+)\s*$")
# By the bytes of an access; QEMU hmp-commands.hx.
_SIZES = {1: "b", 2: "h", 4: "w"}


def read_port(machine: Machine, port: int, size: int) -> int:
    """Return the value that a port gives.

    Args:
        machine: QEMU.
        port: its number.
        size: bytes of the access: 1, 2 or 4.

    Raises:
        SetupBroken: QEMU does not read it.
    """
    answer = machine.hmp(f"i /{_SIZES[size]} {port:#x}").strip()
    found = _ANSWER.search(answer)
    if not found:
        raise SetupBroken(f"QEMU does not read an I/O port; it says: {answer}.")
    return int(found[1], 16)


def write_port(machine: Machine, port: int, size: int, value: int) -> None:
    """Write a value to a port; arguments as for `read_port`."""
    machine.hmp(f"o /{_SIZES[size]} {port:#x} {value:#x}")
