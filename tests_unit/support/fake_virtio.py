"""A machine with one virtio-pci device, as far as its driver outside of the guest sees it."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast

from harness.qemu.guest_memory import GuestMemory, PageProtected
from harness.qemu.machine import Machine

SLOT = 3
_CAPABILITIES = {0x40: (5, 0, 0), 0x60: (1, 4, 0x1000), 0x80: (2, 4, 0x3000)}
_WINDOW, _COMMON, _NOTIFY = 0x40, 0x1000, 0x3000


class FakeMemory:
    """Guest RAM; a page in `protected` cannot be written to."""

    def __init__(self) -> None:
        self.ram = bytearray(1 << 20)
        self.protected: set[int] = set()

    def read(self, address: int, size: int) -> bytes:
        """As GuestMemory has it."""
        return bytes(self.ram[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        """As GuestMemory has it."""
        if address // 4096 in self.protected:
            raise PageProtected("The guest's memory cannot be written: userfaultfd protects the page.")
        self.ram[address : address + len(data)] = data

    def of(self, _machine: Machine) -> GuestMemory:
        """Stand in for the class."""
        return cast(GuestMemory, self)


class FakeVirtio:
    """The device; with `features` it wants those of its feature bits taken."""

    def __init__(self, device_id: int, features: int = 0) -> None:
        self.features = features
        self.taken: dict[int, int] = {}
        self.registers = bytearray(64)
        self.notified = 0
        self.config = bytearray(256)
        self.config[0x34] = 0x40
        for place, (kind, bar, offset) in _CAPABILITIES.items():
            following = place + 0x20 if place + 0x20 in _CAPABILITIES else (0x60 if place == 0x40 else 0)
            self.config[place : place + 12] = struct.pack("<BBBBBxxxI", 9, following, 20, kind, bar, offset)
        self._address = 0
        self.machine = cast(
            Machine,
            SimpleNamespace(
                config=SimpleNamespace(machine="pc", ram_mib=1),
                hmp=self._hmp,
                qmp=SimpleNamespace(execute=lambda _command: self._buses(device_id)),
            ),
        )

    def register(self, offset: int, size: int) -> int:
        """Return a common register."""
        return int.from_bytes(self.registers[offset : offset + size], "little")

    def _buses(self, device_id: int) -> list[dict[str, Any]]:
        def device(slot: int, vendor: int, number: int) -> dict[str, Any]:
            return {
                "slot": slot,
                "function": 0,
                "id": {"vendor": vendor, "device": number},
            }

        return [
            {"bus": 1, "devices": [device(9, 0x1AF4, device_id)]},
            {"bus": 0, "devices": [device(1, 0x8086, device_id), device(SLOT, 0x1AF4, device_id)]},
        ]

    def _hmp(self, command: str) -> str:
        words = command.split()
        size, port = {"b": 1, "h": 2, "w": 4}[words[1][1]], int(words[2], 16)
        if words[0] == "o" and port == 0xCF8:
            self._address = int(words[3], 16)
            return ""
        assert self._address >> 31
        assert self._address >> 11 & 31 == SLOT
        place = (self._address & 0xFC) + port - 0xCFC
        if words[0] == "o":
            self.config[place : place + size] = int(words[3], 16).to_bytes(size, "little")
            if place == _WINDOW + 16:
                self._written(size)
            return ""
        if place == _WINDOW + 16:
            self._to_read(size)
        value = int.from_bytes(self.config[place : place + size], "little")
        return f"port{'bw_l'[size - 1]}[{port:#06x}] = {value:#x}\r\n"

    def _target(self, size: int) -> int:
        bar, offset, length = struct.unpack("<BxxxII", self.config[_WINDOW + 4 : _WINDOW + 16])
        assert (bar, length) == (4, size)
        return int(offset)

    def _written(self, size: int) -> None:
        offset, data = self._target(size), bytes(self.config[_WINDOW + 16 : _WINDOW + 16 + size])
        if offset == _NOTIFY:
            self.notified += 1
            return
        register = offset - _COMMON
        if register == 12:
            self.taken[self.register(8, 4)] = int.from_bytes(data, "little")
        if register == 20 and self.taken.get(0, 0) != self.features:
            # It does not keep FEATURES_OK.
            data = bytes([data[0] & ~8])
        self.registers[register : register + size] = data

    def _to_read(self, size: int) -> None:
        register = self._target(size) - _COMMON
        if register == 4:
            value = self.features if self.register(0, 4) == 0 else 1
            self.registers[4:8] = value.to_bytes(4, "little")
        self.config[_WINDOW + 16 : _WINDOW + 16 + size] = self.registers[register : register + size]
