"""Reaches the devices of a machine in a guest whose firmware set none of them up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import SetupBroken
from harness.qemu.architectures import MachineType
from harness.qemu.configuration import MIB
from harness.qemu.io_ports import read_port, write_port
from harness.qemu.machine import Machine
from harness.qemu.memory_tree import region_addresses
from harness.qemu.pci import MemorySpace, PciFunction, PortSpace, find_function
from harness.qemu.qtest import Qtest, qtest_arguments
from harness.qemu.virtio_driver import DrivenVirtio, VirtioDevice
from harness.qemu.virtio_mmio import MODERN_REGISTERS, VirtioMmioDevice

# Guest-physical address of registers: in the hole that `pc` and `q35` leave below 4 GiB.
_REGISTERS = 0xE0000000

# Their place among the I/O ports is ours to choose too.
_PORTS = 0xC000

# QEMU 10.0 hw/pci-host/gpex.c gpex_host_realize(): the name of the hole of other machines.
_HOLE = "gpex_mmio_window"
# It begins at a multiple of this. What a function has of it already is left out of the memory tree, and is
# smaller (QEMU 10.0: 4 MiB at most in these tests).
_HOLE_ALIGNMENT = 16 * MIB


def qtest_socket(socket: Path) -> Path:
    """Return where a QEMU listens for register accesses, beside a socket of its place."""
    return socket.with_suffix(".qtest")


def reachable(socket: Path) -> tuple[str, ...]:
    """Return the arguments of a QEMU whose registers in memory are to be reached."""
    return qtest_arguments(qtest_socket(socket))


def board_arguments(kind: MachineType, socket: Path) -> tuple[str, ...]:
    """Return the arguments of a QEMU all of whose devices are to be reached, on a type of machine."""
    return () if kind.config_ports else (*MODERN_REGISTERS, *reachable(socket))


class Board:
    """The devices of one QEMU: by ports of PCI configuration space where there are any, else in memory.

    Attributes:
        machine: QEMU.
        kind: its machine type.
        qtest: reaches registers in memory.
    """

    def __init__(self, machine: Machine, kind: MachineType, socket: Path) -> None:
        """Use a running machine, and the socket of its place."""
        self.machine, self.kind = machine, kind
        self.qtest = Qtest(qtest_socket(socket))

    def virtio(self, number: int, queue: int = 0) -> DrivenVirtio:
        """Return a virtio device: one behind PCI on machine types that have its ports, else one in memory.

        Args:
            number: the device's, in VIRTIO 1.2, section 5.
            queue: number of the queue that is used.

        Raises:
            SetupBroken: the machine has none.
        """
        if self.kind.config_ports:
            return VirtioDevice(self.machine, number, queue)
        return VirtioMmioDevice(self.machine, self.qtest, number, queue)

    def find(self, what: str, wanted: Callable[[Any], bool]) -> PciFunction:
        """Return a PCI function of the first bus.

        Args:
            what: names the function in an error.
            wanted: is given what QMP `query-pci` says of a function.

        Raises:
            SetupBroken: the machine has none.
        """
        place = find_function(self.machine, wanted)
        if place is None:
            raise SetupBroken(f"The machine has no {what}.")
        ports = self.kind.config_ports
        space = PortSpace(self.machine) if ports else MemorySpace(self.machine, self.qtest)
        return PciFunction(self.machine, place, space)

    def free_addresses(self) -> int:
        """Return the guest-physical address from which on a PCI function can have its memory, or has.

        Raises:
            SetupBroken: the machine has no such addresses.
        """
        if self.kind.config_ports:
            return _REGISTERS
        found = region_addresses(self.machine, _HOLE)
        if not found:
            raise SetupBroken("The machine has no addresses for the memory of PCI functions.")
        return found[0] & ~(_HOLE_ALIGNMENT - 1)


class PciRegisters:
    """The registers of one function of the first bus; offsets in bytes from its base address."""

    def __init__(self, board: Board, what: str, wanted: Callable[[Any], bool], behind: int = 0) -> None:
        """Find the function.

        Args:
            board: reaches it.
            what: names the function in an error.
            wanted: is given what QMP `query-pci` says of a function.
            behind: how many bytes behind the free addresses it begins, where the function has more than one
                place in memory.

        Raises:
            SetupBroken: the machine has none.
        """
        self._function = board.find(what, wanted)
        self._first = board.free_addresses() + behind
        self._qtest = board.qtest

    def open(self, base_address: int = 0) -> None:
        """Give the function's registers their place, and let it write to guest RAM.

        Args:
            base_address: number of the base address register.
        """
        self._function.give_memory(base_address, self._first)
        self._function.enable()

    def get(self, offset: int, size: int = 4) -> int:
        """Return a register's value; raises SetupBroken where QEMU does not read it."""
        return self._qtest.read(self._first + offset, size)

    def put(self, offset: int, value: int, size: int = 4) -> None:
        """Write a register; raises SetupBroken where QEMU does not write it."""
        self._qtest.write(self._first + offset, size, value)


class PciPorts:
    """The I/O ports of one function of the first bus; offsets in bytes from its base address."""

    def __init__(self, machine: Machine, function: PciFunction) -> None:
        """Use a function of a running machine that has ports."""
        self._machine, self._function = machine, function

    def open(self, base_address: int = 0) -> None:
        """Give the function's ports their place, and let it write to guest RAM.

        Args:
            base_address: number of the base address register.
        """
        self._function.give_ports(base_address, _PORTS)
        self._function.enable()

    def get(self, offset: int, size: int = 4) -> int:
        """Return a register's value; raises SetupBroken where QEMU does not read it."""
        return read_port(self._machine, _PORTS + offset, size)

    def put(self, offset: int, value: int, size: int = 4) -> None:
        """Write a register."""
        write_port(self._machine, _PORTS + offset, size, value)


def has_id(vendor: int, device: int) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether a function has these PCI ids, as a function of what `query-pci` says of it."""
    return lambda found: (found["id"]["vendor"], found["id"]["device"]) == (vendor, device)
