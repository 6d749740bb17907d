"""Contract: a write that is made twice, never, at another time or by nobody shows in the log of writes."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.errors import SetupBroken
from tests_functional.in_flight import disks
from tests_functional.in_flight.disks import ONE, QUEUE, WAITING, Plan
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.stream import FarEnd
from tests_functional.in_flight.write_log import logged_writes
from tests_functional.lib.drivers.disk import Piece, Transfer
from tests_functional.lib.drivers.scsi import CHUNK_BYTES

_SECTOR = 512


def _entry(at: int, data: bytes, flags: int = 0) -> bytes:
    head = struct.pack("<QQQQ", at // _SECTOR, len(data) // _SECTOR, flags, 0)
    return head.ljust(_SECTOR, b"\0") + (b"" if flags else data)


def _log(path: Path, *entries: bytes, magic: int = 0x6A736677736872) -> Path:
    head = struct.pack("<QQQI", magic, 1, len(entries), _SECTOR).ljust(_SECTOR, b"\0")
    path.write_bytes(head + b"".join(entries))
    return path


def test_log_has_each_write_in_order(tmp_path: Path) -> None:
    """Flushes and discards are none, and what is behind the last entry that the head counts is not read."""
    first, second = b"a" * _SECTOR, b"b" * 2 * _SECTOR
    entries = (_entry(1024, first), _entry(0, b"", 1), _entry(512, first, 4), _entry(4096, second))
    log = _log(tmp_path / "log", *entries)
    log.write_bytes(log.read_bytes() + _entry(0, first))
    assert [(write.at, write.data) for write in logged_writes(log)] == [(1024, first), (4096, second)]


def test_log_of_no_write(tmp_path: Path) -> None:
    """QEMU that has not written yet has an empty log; one that begins to has no head in it."""
    for content in (b"", bytes(_SECTOR) + _entry(0, b"a" * _SECTOR)):
        (tmp_path / "log").write_bytes(content)
        assert logged_writes(tmp_path / "log") == []


def test_file_that_is_no_log(tmp_path: Path) -> None:
    """It says nothing about writes."""
    with pytest.raises(SetupBroken, match="another format"):
        logged_writes(_log(tmp_path / "log", magic=7))


def test_writes_by_sector(tmp_path: Path) -> None:
    """A write at another place, or with another content, is none that a request asks for."""
    disk = tmp_path / "disk"
    data = disks.content(range(3, 5), written=True)
    _log(
        disks.log_of(disk),
        _entry(3 * _SECTOR, data),
        _entry(4 * _SECTOR, data[_SECTOR:]),
        _entry(4 * _SECTOR, data),
        _entry(9 * _SECTOR, disks.content(range(9, 10), written=False)),
    )
    far = cast(FarEnd, SimpleNamespace(disk=disk))
    assert disks.written_sectors(far) == {3: 1, 4: 2, -1: 3}


@pytest.mark.parametrize(
    ("written", "before_t0", "expected"),
    [
        ([7, 8, 9], False, [2]),
        ([7, 8, 9, 9], False, [2, 2]),
        ([7, 8, 9, 7, 8, 9], False, [2, 2]),
        ([], False, [-3]),
        ([7, 8], False, [-3]),
        ([7, 7, 8], False, [-3]),
        ([10, 11, 12], False, [-3]),
        ([], True, [2]),
        ([7], True, [2, 2]),
        ([9], True, [2, 2]),
    ],
)
def test_write_counts_as_often_as_it_was_made(
    written: list[int], before_t0: bool, expected: list[int]
) -> None:
    """That of before T0 was made in the other image already; the sector written most often counts."""
    assert disks.found_written(Counter(written), 2, range(7, 10), before_t0=before_t0) == expected


@pytest.mark.parametrize("plan", [QUEUE, disks.ONE_IN_PIECES])
def test_sectors_of_requests(plan: Plan) -> None:
    """No sector of the disk belongs to two requests, and each says which one it belongs to."""
    numbers = range(4 * plan.counts.total)
    found = [(sector, number) for number in numbers for sector in plan.sectors(number)]
    assert len(dict(found)) == len(found)
    assert all(plan.number(sector) == number for sector, number in found)
    assert max(sector for sector, _ in found) < plan.disk_bytes // _SECTOR
    assert plan.number(-1) == -1


def test_sector_of_no_request() -> None:
    """The rest of the place of a request that is shorter than others is nobody's."""
    plan = Plan(ONE.counts, 1, sizes=(1024, 2048))
    assert [plan.number(sector) for sector in range(8)] == [0, 0, -1, -1, 1, 1, 1, 1]


def test_long_requests() -> None:
    """The first one that waits is the longest, and nothing longer than a part passes a closed throttle."""
    for plan in (disks.QUEUE_IN_PIECES, disks.ONE_IN_PIECES):
        for snapshot in range(4):
            numbers = Numbers.of(snapshot, plan.counts)
            waits = numbers.in_flight[0 if plan.serial else disks.PASSING]
            passing = range(waits - disks.PASSING, waits)
            assert len(plan.sectors(waits)) * _SECTOR == 256 << 10
            assert all(len(plan.sectors(number)) * _SECTOR <= CHUNK_BYTES for number in passing)
        # A bare guest leaves 4 MiB, of which the driver has 16 pages.
        assert plan.counts.total * plan.room_bytes <= (4 << 20) - 16 * 4096


@pytest.mark.parametrize("size", disks.LONG)
def test_pieces_of_a_request(size: int) -> None:
    """They lie apart, the later ones in front, in whole pages but for both ends (NVM Express 1.4, 4.3)."""
    plan = Plan(QUEUE.counts, 4, sizes=(size,), pieces=disks.PIECES)
    transfer = plan.transfer(3, 1 << 20)
    assert transfer.size == size
    assert transfer.at == 3 * size
    head, middle, tail = transfer.pieces
    assert (head.address % 4096, (head.address + head.size) % 4096) == (1024, 0)
    assert (middle.address % 4096, middle.size % 4096, tail.address) == (0, 0, 1 << 20)
    assert min(head.size, middle.size, tail.size) > 4096
    assert middle.address - (tail.address + tail.size) >= 4096
    assert head.address - (middle.address + middle.size) >= 4096
    assert head.address + head.size == (1 << 20) + plan.room_bytes


def test_short_request_has_one_piece() -> None:
    """A page, in a room of that size."""
    transfer = QUEUE.transfer(2, 8192)
    assert transfer == Transfer(8192, (Piece(8192, 4096),), writes=not QUEUE.writes(3))
    assert QUEUE.room_bytes == 4096


def test_piece_cut_at_multiples() -> None:
    """Parts end at each multiple, and have all of it."""
    parts = Transfer(0, (Piece(1000, 9000), Piece(0, 4096))).cut(4096)
    assert parts == [Piece(1000, 3096), Piece(4096, 4096), Piece(8192, 1808), Piece(0, 4096)]
    assert Piece(0, 0).cut(4096) == []


def test_driver_that_takes_one_piece() -> None:
    """It never takes the first of several for all."""
    assert Transfer(0, (Piece(4096, 512),)).address == 4096
    with pytest.raises(ValueError, match="too many values"):
        _ = Transfer(0, (Piece(0, 512), Piece(4096, 512))).address


@pytest.mark.parametrize("plan", [ONE, QUEUE])
def test_last_request_that_waits(plan: Plan) -> None:
    """It writes or reads as the plan says, in each snapshot, and its neighbours do the other."""
    for snapshot in range(4):
        numbers = Numbers.of(snapshot, plan.counts)
        last = numbers.in_flight[plan.told - 1]
        for reads in (False, True):
            found = Plan(plan.counts, plan.told, last_reads=reads)
            assert found.writes(last) != reads
            assert found.writes(last + 1) == reads
            assert found.writes(last - 1) == reads


@pytest.mark.parametrize("plan", [ONE, QUEUE])
def test_done_before_t0(plan: Plan) -> None:
    """QEMU waits for those that it has, and a failed one is done later."""
    numbers = Numbers.of(2, plan.counts)
    done = [number for number in (*numbers.before, *numbers.source) if plan.done_before_t0(number)]
    assert done == [*numbers.consumed, *numbers.in_flight[: plan.told]]
    fails = Plan(plan.counts, plan.told, fails=True)
    done = [number for number in (*numbers.before, *numbers.source) if fails.done_before_t0(number)]
    assert done == [*numbers.consumed, *numbers.in_flight[: plan.told - 1]]


def test_requests_that_wait_in_a_serial_device() -> None:
    """It works on the first one alone at T0, so that the others are carried out by both guests."""
    numbers = Numbers.of(1, WAITING.counts)
    assert WAITING.told > 1
    done = [number for number in numbers.before if WAITING.done_before_t0(number)]
    assert done == [*numbers.consumed, numbers.in_flight[0]]
    # What passes a throttle that was just closed is a read and a write.
    assert {WAITING.writes(number) for number in numbers.consumed[-disks.PASSING :]} == {True, False}


def test_one_request_of_each_snapshot_fails() -> None:
    """The last one that the device was told of; the first round has no snapshot."""
    assert QUEUE.failing() == []
    fails = Plan(QUEUE.counts, QUEUE.told, fails=True)
    assert fails.failing() == [Numbers.of(number, QUEUE.counts).in_flight[3] for number in (1, 2, 3)]
