"""Contract: functions of a real QEMU are found, and their registers read, written and placed from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SetupBroken
from harness.linux.socket_folder import socket_folder
from harness.qemu.pci import PciFunction, PciPlace, find_function
from harness.qemu.qtest import Qtest, qtest_arguments
from tests_unit.support.real_machine import RAM_MIB, real_machine

_COMMAND, _BARS = 0x04, 0x10
_PLACE = 0xE0000000


def test_functions_are_found_and_placed(tmp_path: Path) -> None:
    """A base address of 64 bits takes the next register too, and one of 32 bits leaves that alone."""
    devices = ("-device", "qemu-xhci,addr=5", "-device", "e1000,addr=6.0,romfile=")
    with real_machine(tmp_path, *devices) as machine:
        assert find_function(machine, lambda device: device["id"]["device"] == 0x1237) == PciPlace(0, 0)
        assert find_function(machine, lambda device: device["id"]["device"] == 0x100E) == PciPlace(6, 0)
        assert find_function(machine, lambda _: False) is None
        usb, card = PciFunction(machine, PciPlace(5, 0)), PciFunction(machine, PciPlace(6, 0))
        assert (card.read(0, 2), card.read(2, 2), card.read(2, 1)) == (0x8086, 0x100E, 0x0E)
        assert card.read(_COMMAND, 2) & 7 == 0
        card.enable()
        assert card.read(_COMMAND, 2) & 7 == 7
        card.give_ports(1, 0xC200)
        card.give_memory(0, _PLACE)
        assert [card.read(_BARS + 4 * number, 4) for number in range(2)] == [_PLACE, 0xC201]
        usb.write(_BARS + 4, 4, 0x12)
        usb.give_memory(0, _PLACE)
        assert [usb.read(_BARS + 4 * number, 4) for number in range(2)] == [_PLACE | 4, 0]


def test_registers_in_memory(tmp_path: Path) -> None:
    """Each size of an access is read and written in the guest's order of bytes."""
    with socket_folder() as folder:
        path = folder / "q"
        with real_machine(tmp_path, *qtest_arguments(path)):
            registers = Qtest(path)
            place = (RAM_MIB - 1) << 20
            registers.write(place, 8, 0x0123456789ABCDEF)
            found = [registers.read(place, size) for size in (1, 2, 4, 8)]
            assert found == [0xEF, 0xCDEF, 0x89ABCDEF, 0x0123456789ABCDEF]
            registers.write(place + 2, 2, 0x1122)
            registers.write(place + 1, 1, 0x33)
            registers.write(place + 4, 4, 0x44556677)
            assert registers.read(place, 8) == 0x44556677112233EF
        with pytest.raises(SetupBroken, match="does not answer 'readl 0x10' by its qtest protocol"):
            registers.read(0x10, 4)
