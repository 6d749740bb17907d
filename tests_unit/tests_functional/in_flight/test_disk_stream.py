"""Contract: a long request is done when each piece of its data is in its place, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from tests_functional.in_flight import disk_stream, disks
from tests_functional.in_flight.disk_stream import DiskBus, DiskStream, data_at
from tests_functional.in_flight.disks import QUEUE_IN_PIECES
from tests_functional.in_flight.stream import FarEnd
from tests_functional.lib.drivers.disk import Answer, Transfer

_MACHINE = cast(Any, SimpleNamespace(config=SimpleNamespace(machine="pc", ram_mib=128)))
# Of QUEUE_IN_PIECES: one that reads, and one that writes.
_READS, _WRITES = 4, 5


class _Memory:
    def __init__(self) -> None:
        self.ram = bytearray(4 << 20)

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.ram[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        self.ram[address : address + len(data)] = data


class _Driver:
    """A driver whose disk transfers data at once, and answers.

    Attributes:
        reversed: whether it takes the pieces in another order.
    """

    at_once = 8

    def __init__(self, memory: _Memory) -> None:
        self._memory, self.reversed = memory, False
        self._transfers: list[Transfer] = []
        self._done: list[int] = []
        self.written: dict[int, bytes] = {}

    def put(self, transfer: Transfer) -> int:
        self._transfers.append(transfer)
        return len(self._transfers) - 1

    def tell(self, request: int) -> None:
        transfer = self._transfers[request]
        pieces = transfer.pieces[::-1] if self.reversed else transfer.pieces
        if transfer.writes:
            data = (self._memory.read(piece.address, piece.size) for piece in pieces)
            self.written[transfer.at] = b"".join(data)
        else:
            first, at = transfer.sector, 0
            data_read = disks.content(range(first, first + transfer.sectors), written=False)
            for piece in pieces:
                self._memory.write(piece.address, data_read[at : at + piece.size])
                at += piece.size
        self._done.append(request)

    def answers(self) -> list[Answer]:
        done, self._done = self._done, []
        return [Answer(request, 0) for request in done]


def _stream(monkeypatch: pytest.MonkeyPatch) -> tuple[DiskStream, _Driver, _Memory]:
    memory = _Memory()
    driver = _Driver(memory)
    monkeypatch.setattr(disk_stream, "GuestMemory", lambda _machine: memory)
    monkeypatch.setattr(disk_stream, "Board", lambda *_: None)
    monkeypatch.setattr(disk_stream, "free_ram_at", lambda _kind, _bytes: 0)
    monkeypatch.setattr(disks, "open_throttle", lambda _machine: None)
    monkeypatch.setattr(disks, "written_sectors", lambda _far: {})
    bus = DiskBus("disk", ("disk",), cast(Any, lambda *_: driver))
    far = cast(FarEnd, SimpleNamespace(disk=Path("disk"), board=Path("board"), restored=False))
    return DiskStream(_MACHINE, far, bus, QUEUE_IN_PIECES), driver, memory


def _delivered(stream: DiskStream, number: int) -> list[int]:
    stream.send([number], Deadline(1))
    return stream.deliver(1, Deadline(1))


def test_read_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece has its part of the data."""
    stream, _, _ = _stream(monkeypatch)
    assert QUEUE_IN_PIECES.writes(_WRITES)
    assert not QUEUE_IN_PIECES.writes(_READS)
    assert _delivered(stream, _READS) == [_READS]


def test_pieces_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data are there, in the wrong places."""
    stream, driver, _ = _stream(monkeypatch)
    driver.reversed = True
    assert _delivered(stream, _READS) == [-1 - _READS]


@pytest.mark.parametrize("number", [1, 2])
def test_byte_between_pieces(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A device that writes behind a piece overwrites what is none of its data."""
    stream, driver, memory = _stream(monkeypatch)
    room = data_at(_MACHINE) + _READS * QUEUE_IN_PIECES.room_bytes
    piece = QUEUE_IN_PIECES.transfer(_READS, room).pieces[number]
    answers = driver.answers

    def overruns() -> list[Answer]:
        memory.write(piece.address + piece.size, b"\0")
        return answers()

    monkeypatch.setattr(driver, "answers", overruns)
    assert _delivered(stream, _READS) == [-1 - _READS]


def test_write_from_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guest gives the disk are the sectors of the request, in their order."""
    stream, driver, _ = _stream(monkeypatch)
    _delivered(stream, _WRITES)
    sectors = QUEUE_IN_PIECES.sectors(_WRITES)
    assert driver.written == {sectors.start * 512: disks.content(sectors, written=True)}
