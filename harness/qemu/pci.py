"""Reads and writes PCI configuration space of a running machine from outside, by I/O ports or in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import SetupBroken
from harness.qemu.io_ports import read_port, write_port
from harness.qemu.machine import Machine
from harness.qemu.memory_tree import region_addresses
from harness.qemu.qtest import Qtest

# PCI Local Bus 3.0, 3.2.2.3.2: the ports, and the bit that opens the second one.
_ADDRESS_PORT, _DATA_PORT, _ENABLE = 0xCF8, 0xCFC, 1 << 31
# PCI Local Bus 3.0, 6.2.2: the command register.
_COMMAND, _IO_SPACE, _MEMORY_SPACE, _BUS_MASTER = 0x04, 1 << 0, 1 << 1, 1 << 2
# The same, 6.2.5.1: base address registers.
_BASE_ADDRESS = 0x10
_TYPE, _OF_64_BITS = 0b111, 0b100
# The same, 6.2.5.2: that of an option ROM, with the bit that opens it. QEMU 10.0 include/hw/pci/pci.h
# gives the ROM the number 6 among the regions.
_ROM_ADDRESS, _ROM_REGION, _ROM_ENABLE = 0x30, 6, 1
# QEMU 10.0 hw/pci/pcie_host.c pcie_host_init(): the name of configuration space in memory.
_ECAM_REGION = "pcie-mmcfg-mmio"


@dataclass(frozen=True)
class PciPlace:
    """Where a function is on the first bus.

    Attributes:
        slot: number of its device.
        function: its number in the device.
    """

    slot: int
    function: int


def find_function(machine: Machine, wanted: Callable[[Mapping[str, Any]], bool]) -> PciPlace | None:
    """Return the first function of the first bus that is wanted, None where there is none.

    Args:
        machine: QEMU.
        wanted: is given what QMP `query-pci` says of a function.
    """
    for bus in machine.qmp.execute("query-pci"):
        for device in bus["devices"]:
            if bus["bus"] == 0 and wanted(device):
                return PciPlace(int(device["slot"]), int(device["function"]))
    return None


class ConfigurationSpace(Protocol):
    """The configuration space of the first bus."""

    def read(self, place: PciPlace, register: int, size: int) -> int:
        """Return the value of a function's register, by its offset and size in bytes.

        Raises:
            SetupBroken: QEMU does not read it.
        """

    def write(self, place: PciPlace, register: int, size: int, value: int) -> None:
        """Write a register; arguments and errors as for `read`."""


class PortSpace:
    """The configuration space of an x86 machine, through its I/O ports; a `ConfigurationSpace`."""

    def __init__(self, machine: Machine) -> None:
        """Use a running machine that has the ports."""
        self._machine = machine

    def read(self, place: PciPlace, register: int, size: int) -> int:
        """Return the value of a function's register."""
        self._select(place, register)
        return read_port(self._machine, _DATA_PORT + register % 4, size)

    def write(self, place: PciPlace, register: int, size: int, value: int) -> None:
        """Write a function's register."""
        self._select(place, register)
        write_port(self._machine, _DATA_PORT + register % 4, size, value)

    def _select(self, place: PciPlace, register: int) -> None:
        function = place.slot << 3 | place.function
        write_port(self._machine, _ADDRESS_PORT, 4, _ENABLE | function << 8 | register & ~3)


class MemorySpace:
    """The configuration space of a machine that has it in memory (PCI Express 6.0, 7.2.2: ECAM).

    It is a `ConfigurationSpace`.
    """

    def __init__(self, machine: Machine, qtest: Qtest) -> None:
        """Find it in a running machine.

        Raises:
            SetupBroken: the machine has none.
        """
        self._qtest = qtest
        found = region_addresses(machine, _ECAM_REGION)
        if not found:
            raise SetupBroken("The machine has no PCI configuration space in memory.")
        self._base = found[0]

    def read(self, place: PciPlace, register: int, size: int) -> int:
        """Return the value of a function's register."""
        return self._qtest.read(self._address(place, register), size)

    def write(self, place: PciPlace, register: int, size: int, value: int) -> None:
        """Write a function's register."""
        self._qtest.write(self._address(place, register), size, value)

    def _address(self, place: PciPlace, register: int) -> int:
        return self._base + (place.slot << 15 | place.function << 12 | register)


class PciFunction:
    """The configuration space of one function."""

    def __init__(self, machine: Machine, place: PciPlace, space: ConfigurationSpace | None = None) -> None:
        """Address a function of a running machine, by default through its I/O ports."""
        self._space = space or PortSpace(machine)
        self._place = place

    def enable(self) -> None:
        """Let the function answer to its addresses, and write to guest RAM."""
        self.write(_COMMAND, 2, _IO_SPACE | _MEMORY_SPACE | _BUS_MASTER)

    def give_ports(self, register: int, first: int) -> None:
        """Give a base address register its I/O ports, which firmware does on other machines.

        Args:
            register: its number, from 0 to 5.
            first: the first port.
        """
        self.write(_BASE_ADDRESS + 4 * register, 4, first)

    def give_memory(self, register: int, first: int) -> None:
        """Give a base address register, or the option ROM, its place in memory below 4 GiB.

        Args:
            register: its number, from 0 to 5; one of 64 bits takes the next one too. 6 is the option ROM.
            first: guest-physical address of the first byte, a multiple of the region's size.
        """
        if register == _ROM_REGION:
            self.write(_ROM_ADDRESS, 4, first | _ROM_ENABLE)
            return
        place = _BASE_ADDRESS + 4 * register
        wide = self.read(place, 4) & _TYPE == _OF_64_BITS
        self.write(place, 4, first)
        if wide:
            self.write(place + 4, 4, 0)

    def read(self, place: int, size: int) -> int:
        """Return the value of a register.

        Args:
            place: its offset in bytes.
            size: in bytes: 1, 2 or 4.

        Raises:
            SetupBroken: QEMU does not read it.
        """
        return self._space.read(self._place, place, size)

    def write(self, place: int, size: int, value: int) -> None:
        """Write a register; arguments as for `read`."""
        self._space.write(self._place, place, size, value)


def map_memory(machine: Machine, start: int) -> None:
    """Give all memory of the functions on the first bus a place from an address on, as firmware does.

    Args:
        machine: QEMU.
        start: guest-physical address in the first 4 GiB, behind which there is nothing.
    """
    regions = [
        (int(region["size"]), int(region["bar"]), device)
        for bus in machine.qmp.execute("query-pci")
        if bus["bus"] == 0
        for device in bus["devices"]
        for region in device["regions"]
        if region["type"] == "memory"
    ]
    at = start
    # The largest first, so that each is at a multiple of its size.
    for size, bar, device in sorted(regions, key=lambda region: (-region[0], region[1])):
        function = PciFunction(machine, PciPlace(int(device["slot"]), int(device["function"])))
        function.give_memory(bar, at)
        function.enable()
        at += size
