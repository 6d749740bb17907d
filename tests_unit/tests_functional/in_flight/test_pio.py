"""Contract: a sector in mid-transfer counts once, when all of it is through, and by what it has in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from tests_functional.in_flight import pio
from tests_functional.in_flight.disks import content, sector, sector_number
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.pio import COUNTS, Pio
from tests_functional.in_flight.stream import FarEnd
from tests_functional.lib.drivers.ide import COMMAND

_DATA = 0x1F0


@dataclass
class _Disk:
    """A disk that gives words of its request's sectors.

    Attributes:
        shift: how many sectors too far it reads.
        status: while it has words.
        words: of the request, that are left.
    """

    shift: int = 0
    status: int = 0x58
    words: list[int] = field(default_factory=list)
    ram: dict[int, bytes] = field(default_factory=dict)

    def command(self, _machine: Any, _command: int, first: int, count: int) -> None:
        data = b"".join(sector(first + self.shift + at, written=False) for at in range(count))
        self.words = [word for (word,) in struct.iter_unpack("<I", data)]

    def read(self, _machine: Any, port: int, _size: int) -> int:
        if port == COMMAND:
            return self.status if self.words else 0x50
        assert port == _DATA
        return self.words.pop(0)


class _Memory:
    def __init__(self, ram: bytearray) -> None:
        self._ram = ram

    def read(self, address: int, size: int) -> bytes:
        return bytes(self._ram[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        self._ram[address : address + len(data)] = data


def _stream(monkeypatch: pytest.MonkeyPatch, disk: _Disk, ram: bytearray) -> Pio:
    monkeypatch.setattr(pio, "give_command", disk.command)
    monkeypatch.setattr(pio, "read_port", disk.read)
    monkeypatch.setattr(pio, "GuestMemory", lambda _machine: _Memory(ram))
    monkeypatch.setattr(pio, "free_ram_at", lambda _kind, _bytes: 0)
    machine = cast(Any, SimpleNamespace(config=SimpleNamespace(machine="pc", ram_mib=128)))
    return Pio(machine, cast(FarEnd, SimpleNamespace(disk=Path("disk"))), writes=False)


def test_restored_guest_goes_on_in_mid_sector(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was through is in guest RAM, and the rest comes from the device: each sector arrives once."""
    disk, ram = _Disk(), bytearray(1 << 16)
    stream, numbers = _stream(monkeypatch, disk, ram), Numbers.of(1, COUNTS)
    in_flight = stream.fill(numbers, Deadline(1))
    assert list(in_flight.restored) == list(numbers.in_flight)
    assert len(disk.words) == 128 + 64
    left, at_t0 = list(disk.words), bytearray(ram)
    stream.send(numbers.source, Deadline(1))
    assert stream.deliver(0, Deadline(1)) == [*numbers.in_flight, *numbers.source]
    restored = _stream(monkeypatch, _Disk(words=left), at_t0)
    restored.resume(0)
    restored.send(numbers.restored, Deadline(1))
    assert restored.deliver(0, Deadline(1)) == [*numbers.in_flight, *numbers.restored]


def test_half_of_another_sector_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has forgotten where the guest was gives halves that do not fit, or ends too early."""
    disk, ram = _Disk(), bytearray(1 << 16)
    stream, numbers = _stream(monkeypatch, disk, ram), Numbers.of(1, COUNTS)
    stream.fill(numbers, Deadline(1))
    disk.words = disk.words[64:] + disk.words[:64]
    assert stream.deliver(0, Deadline(1)) == [-1, -1]
    stream.fill(numbers, Deadline(1))
    del disk.words[:64]
    with pytest.raises((DeadlineExpired, IndexError)):
        stream.deliver(0, Deadline(0.1))


def test_wrong_sector_has_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The content says which one it is, not the place that it arrives in."""
    stream, numbers = _stream(monkeypatch, _Disk(shift=1), bytearray(1 << 16)), Numbers.of(1, COUNTS)
    stream.fill(numbers, Deadline(1))
    assert stream.deliver(0, Deadline(1)) == [number + 1 for number in numbers.in_flight]


@pytest.mark.parametrize(("status", "error"), [(0x51, SetupBroken), (0xD8, DeadlineExpired)])
def test_disk_that_gives_nothing(
    monkeypatch: pytest.MonkeyPatch, status: int, error: type[Exception]
) -> None:
    """One that reports an error, and one that stays busy."""
    stream = _stream(monkeypatch, _Disk(status=status), bytearray(1 << 16))
    with pytest.raises(error):
        stream.fill(Numbers.of(1, COUNTS), Deadline(0.1))


def test_content_of_sectors() -> None:
    """Each has its number, and another content once it is written."""
    sectors = range(24, 32)
    for written in (False, True):
        data = content(sectors, written=written)
        parts = [data[at : at + 512] for at in range(0, len(data), 512)]
        assert [sector_number(part, written=written) for part in parts] == list(sectors)
        assert {sector_number(part, written=not written) for part in parts} == {-1}
