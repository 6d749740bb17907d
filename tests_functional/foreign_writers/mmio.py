"""Reaches the registers that a PCI function has in memory, in a guest whose firmware gave them no place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import SetupBroken
from harness.qemu.machine import Machine
from harness.qemu.pci import PciFunction, find_function
from harness.qemu.qtest import Qtest, qtest_arguments

REGISTERS = 0xE0000000
"""Guest-physical address of the registers: in the hole that `pc` and `q35` leave below 4 GiB."""


def qtest_socket(socket: Path) -> Path:
    """Return where a QEMU listens for register accesses, beside a socket of its place."""
    return socket.with_suffix(".qtest")


def reachable(socket: Path) -> tuple[str, ...]:
    """Return the arguments of a QEMU whose registers are to be reached."""
    return qtest_arguments(qtest_socket(socket))


class PciRegisters:
    """The registers of one function of the first bus; offsets in bytes from its base address."""

    def __init__(self, machine: Machine, socket: Path, what: str, wanted: Callable[[Any], bool]) -> None:
        """Find the function.

        Args:
            machine: QEMU, on a machine type with I/O ports.
            socket: of the QEMU's place.
            what: names the function in an error.
            wanted: is given what QMP `query-pci` says of a function.

        Raises:
            SetupBroken: the machine has none.
        """
        place = find_function(machine, wanted)
        if place is None:
            raise SetupBroken(f"The machine has no {what}.")
        self._function = PciFunction(machine, place)
        self._qtest = Qtest(qtest_socket(socket))

    def open(self, base_address: int = 0) -> None:
        """Give the function's registers their place, and let it write to guest RAM.

        Args:
            base_address: number of the base address register.
        """
        self._function.give_memory(base_address, REGISTERS)
        self._function.enable()

    def get(self, offset: int, size: int = 4) -> int:
        """Return a register's value; raises SetupBroken where QEMU does not read it."""
        return self._qtest.read(REGISTERS + offset, size)

    def put(self, offset: int, value: int, size: int = 4) -> None:
        """Write a register; raises SetupBroken where QEMU does not write it."""
        self._qtest.write(REGISTERS + offset, size, value)


def has_id(vendor: int, device: int) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether a function has these PCI ids, as a function of what `query-pci` says of it."""
    return lambda found: (found["id"]["vendor"], found["id"]["device"]) == (vendor, device)
