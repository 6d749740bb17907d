"""Has a bare guest suspend itself to RAM (ACPI S3), by the registers of the machine's power management."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import NotApplicable
from harness.qemu.io_ports import write_port
from harness.qemu.machine import Machine
from harness.qemu.pci import PciPlace, PortSpace, find_function


@dataclass(frozen=True)
class _PowerManagement:
    """The function that has the registers, and how they are opened.

    Attributes:
        device: its PCI device id.
        enable: register, and the value that opens the I/O ports.
    """

    device: int
    enable: tuple[int, int]

    def is_at(self, found: Mapping[str, Any]) -> bool:
        """Return whether what `query-pci` says is of this function."""
        return bool(found["id"]["device"] == self.device)


# QEMU 10.0 hw/acpi/piix4.c: pm_io_space_update() (PMBA at 0x40, PMREGMISC at 0x80);
# hw/isa/lpc_ich9.c: ich9_lpc_pmbase_sci_update() (PMBASE at 0x40, ACPI_CNTL at 0x44).
_FUNCTIONS = (_PowerManagement(0x7113, (0x80, 0x01)), _PowerManagement(0x2918, (0x44, 0x80)))
_BASE_REGISTER, _BASE, _IO_SPACE = 0x40, 0x600, 1
# ACPI 6.5, 4.8.3.2.1: the control register, with the bit that enters the sleep of a type; QEMU
# hw/acpi/core.c, acpi_pm1_cnt_write(): type 1 is S3.
_CONTROL, _SLEEP, _TYPE_S3 = 4, 1 << 13, 1 << 10


def fall_asleep(machine: Machine) -> None:
    """Have the guest of a running machine enter S3; it is `suspended` soon afterwards.

    Raises:
        NotApplicable: the machine has no power management that is known here.
    """
    space = PortSpace(machine)
    for function in _FUNCTIONS:
        place = find_function(machine, function.is_at)
        if place is not None:
            _open(space, place, function)
            write_port(machine, _BASE + _CONTROL, 2, _SLEEP | _TYPE_S3)
            return
    raise NotApplicable("This machine has no power management by which a bare guest can sleep.")


def _open(space: PortSpace, place: PciPlace, function: _PowerManagement) -> None:
    register, value = function.enable
    space.write(place, _BASE_REGISTER, 4, _BASE | _IO_SPACE)
    space.write(place, register, 1, value)
