"""Suspends a guest to RAM (ACPI S3) from outside, as its operating system does through I/O ports.

It is for a guest without firmware tables: nobody else has given the power management its ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import NotApplicable
from harness.qemu.io_ports import write_port
from harness.qemu.machine import Machine
from harness.qemu.pci import PciFunction, find_function

_INTEL = 0x8086
# Where we put the ports of power management, as SeaBIOS does (src/config.h, PORT_ACPI_PM_BASE).
_BASE = 0x600
# ACPI 6.5, 4.8.3.2.1: the control register, with the kind of sleep and the bit that begins it.
# QEMU hw/acpi/core.c acpi_pm1_cnt_write(): kind 1 is S3 on every machine.
_CONTROL, _SLEEP_KIND, _SLEEP = 4, 1 << 10, 1 << 13


@dataclass(frozen=True)
class _Switch:
    """Where a chip's power management is switched on: registers in configuration space.

    Attributes:
        base: of the register that takes the ports.
        register: of the one that opens them.
        size: of it in bytes.
        value: that opens them.
    """

    base: int
    register: int
    size: int
    value: int


# By the PCI device id. QEMU hw/acpi/piix4.c pm_io_space_update(): bit 0 of PMREGMISC; include/hw/southbridge/
# ich9.h: ICH9_LPC_PMBASE, and ICH9_LPC_ACPI_CTRL_ACPI_EN of ICH9_LPC_ACPI_CTRL.
_SWITCHES: Mapping[int, _Switch] = {
    0x7113: _Switch(base=0x40, register=0x80, size=1, value=1),
    0x2918: _Switch(base=0x40, register=0x44, size=1, value=0x80),
}


def suspend_to_ram(machine: Machine) -> None:
    """Suspend the guest; it sleeps once `query-status` says 'suspended'.

    Raises:
        NotApplicable: the machine has no power management that is known here.
    """

    def is_power_management(device: Mapping[str, Any]) -> bool:
        identity = device["id"]
        return identity["vendor"] == _INTEL and identity["device"] in _SWITCHES

    place = find_function(machine, is_power_management)
    if place is None:
        raise NotApplicable("The guest's machine has no power management that snapproof can drive.")
    function = PciFunction(machine, place)
    switch = _SWITCHES[function.read(2, 2)]
    function.write(switch.base, 4, _BASE | 1)
    function.write(switch.register, switch.size, switch.value)
    write_port(machine, _BASE + _CONTROL, 2, _SLEEP_KIND | _SLEEP)
