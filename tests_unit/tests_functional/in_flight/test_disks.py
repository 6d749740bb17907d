"""Contract: a write that is made twice, never, at another time or by nobody shows in the log of writes."""

from __future__ import annotations

import struct
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


def test_writes_by_number(tmp_path: Path) -> None:
    """A write at another place, or with another content, belongs to no request."""
    disk = tmp_path / "disk"
    three = disks.written_block(3)
    _log(
        disks.log_of(disk),
        _entry(3 * disks.BLOCK_BYTES, three),
        _entry(3 * disks.BLOCK_BYTES, three),
        _entry(4 * disks.BLOCK_BYTES, three),
        _entry(3 * disks.BLOCK_BYTES + _SECTOR, three),
        _entry(5 * disks.BLOCK_BYTES, disks.block(5)),
    )
    far = cast(FarEnd, SimpleNamespace(disk=disk))
    assert disks.written_numbers(far) == [3, 3, -1, -1, -1]


@pytest.mark.parametrize(
    ("written", "before_t0", "expected"),
    [
        ([7], False, [7]),
        ([7, 7], False, [7, 7]),
        ([], False, [-8]),
        ([9], False, [-8]),
        ([], True, [7]),
        ([7], True, [7, 7]),
    ],
)
def test_write_counts_as_often_as_it_was_made(
    written: list[int], before_t0: bool, expected: list[int]
) -> None:
    """That of before T0 was made in the other image already."""
    assert disks.found_written(written, 7, before_t0=before_t0) == expected


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
    # A background snapshot and the control, and a first round without one.
    assert 3 * WAITING.counts.total <= disks.BLOCKS


def test_one_request_of_each_snapshot_fails() -> None:
    """The last one that the device was told of; the first round has no snapshot."""
    assert QUEUE.failing() == []
    fails = Plan(QUEUE.counts, QUEUE.told, fails=True)
    assert fails.failing() == [Numbers.of(number, QUEUE.counts).in_flight[3] for number in (1, 2, 3)]
