"""Contract: a bare guest's disk and memory go on together, and a disk of another T0 is seen."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest

from harness.codes import Code
from harness.errors import NotApplicable
from tests_functional.repetition import bare_disk, with_disk
from tests_functional.repetition.bare_disk import BLOCK_BYTES, BareDisk, DiskSilent, Request
from tests_functional.repetition.bare_disk_loop import DISK_BYTES, BareDiskLoop, judge_blocks, marks_after
from tests_unit.support.fake_virtio import FakeMemory, FakeVirtio
from tests_unit.support.scenario_values import codes, make_run, sentences

_PLACE = 64 << 10
_RING, _USED = _PLACE + 4096, _PLACE + 2 * 4096


class _Device(FakeVirtio):
    """A disk that carries out what it was offered when it is notified; `broken` answers an error."""

    def __init__(self, memory: FakeMemory, content: bytearray) -> None:
        super().__init__(0x1042)
        self.content = content
        self.memory = memory
        self.broken = self.silent = False
        self.flushed = 0

    def _written(self, size: int) -> None:
        notified = self.notified
        super()._written(size)
        if self.notified > notified and not self.silent:
            self._carry_out()

    def _carry_out(self) -> None:
        (offered,) = struct.unpack("<H", self.memory.read(_RING + 2, 2))
        (used,) = struct.unpack("<H", self.memory.read(_USED + 2, 2))
        while used != offered:
            (head,) = struct.unpack("<H", self.memory.read(_RING + 4 + used % 16 * 2, 2))
            self._request(head)
            used = (used + 1) % 65536
        self.memory.write(_USED + 2, struct.pack("<H", used))

    def _request(self, head: int) -> None:
        chain = [
            struct.unpack("<QIHH", self.memory.read(_PLACE + 16 * (head + number), 16)) for number in range(3)
        ]
        assert [row[2] & 1 for row in chain] == [1, 1, 0]
        kind, _, sector = struct.unpack("<IIQ", self.memory.read(chain[0][0], 16))
        at, size = sector * 512, chain[1][1]
        if kind == 0:
            assert chain[1][2] & 2
            self.memory.write(chain[1][0], bytes(self.content[at : at + size]))
        elif kind == 1:
            self.content[at : at + size] = self.memory.read(chain[1][0], size)
        else:
            self.flushed += 1
        self.memory.write(chain[2][0], bytes([1 if self.broken else 0]))


@pytest.fixture(name="device")
def _device(monkeypatch: pytest.MonkeyPatch) -> _Device:
    memory = FakeMemory()
    monkeypatch.setattr(bare_disk, "GuestMemory", memory.of)
    monkeypatch.setattr(bare_disk, "free_ram_at", lambda *_: _PLACE)
    monkeypatch.setattr(bare_disk, "_SECONDS", 0.05)
    return _Device(memory, bytearray(DISK_BYTES))


def _started(device: _Device) -> BareDiskLoop:
    loop = BareDiskLoop(device.machine)
    loop.start()
    return loop


def _restored(device: _Device, memory: bytearray, disk: bytearray) -> BareDiskLoop:
    """Return the loop in a guest with that memory and that disk."""
    device.memory.ram[:] = memory
    device.content[:] = disk
    return BareDiskLoop(device.machine)


def test_blocks_are_written_and_read(device: _Device) -> None:
    """Many, one, and what was not written is zero."""
    disk = BareDisk(device.machine)
    disk.start()
    many, one = bytes(range(256)) * 16 * 8, b"x" * BLOCK_BYTES
    disk.offer(Request.WRITE_MANY, 8, many)
    disk.offer(Request.WRITE_ONE, 20, one)
    disk.offer(Request.FLUSH)
    assert not any(device.content)
    disk.notify()
    disk.wait()
    assert b"".join(disk.read(8)) == many + bytes(4 * BLOCK_BYTES) + one + bytes(3 * BLOCK_BYTES)
    assert device.flushed == 1


@pytest.mark.parametrize(("silent", "words"), [(True, "does not carry out"), (False, "READ: 1")])
def test_disk_that_fails(device: _Device, silent: bool, words: str) -> None:
    """It does not answer, or answers an error."""
    disk = BareDisk(device.machine)
    disk.start()
    device.silent, device.broken = silent, not silent
    with pytest.raises(DiskSilent, match=words):
        disk.read(0)


def test_loop_goes_on_in_a_restored_guest(device: _Device) -> None:
    """Also where T0 lies before the disk was told of a pass, which both guests then make."""
    loop = _started(device)
    assert loop.wait_passes(40) == 40
    loop.begin_pass()
    memory, disk = bytearray(device.memory.ram), bytearray(device.content)
    loop.end_pass()
    assert loop.wait_passes(9) == 9
    assert [sentences(check) for check in loop.judge()] == [[], []]
    source = loop.record()
    restored = _restored(device, memory, disk)
    assert restored.passes() == 41
    assert [sentences(check) for check in restored.judge()] == [[], []]
    assert list(restored.record().items())[:41] == list(source.items())[:41]
    assert len(source) == 55
    assert len(restored.record()) == 46


@pytest.mark.parametrize("passes", [1, 2, 3, 80])
@pytest.mark.parametrize("begun", [False, True])
def test_newer_disk_is_seen_at_once(device: _Device, passes: int, begun: bool) -> None:
    """By a mark, whether or not the restored guest has overwritten half of them before."""
    loop = _started(device)
    loop.wait_passes(20)
    if begun:
        loop.begin_pass()
    memory = bytearray(device.memory.ram)
    loop.wait_passes(passes)
    restored = _restored(device, memory, bytearray(device.content))
    made, files = restored.judge()
    assert made.facts == {"passes": 0}
    assert sentences(made)[0].endswith("a mark on the disk is not the one that its memory expects.")
    assert codes(files) == [Code.DISK_FILES_UNKNOWN] * passes


def test_older_disk_is_seen_at_once(device: _Device) -> None:
    """A disk from before T0 lacks what the memory knows."""
    loop = _started(device)
    loop.wait_passes(20)
    disk = bytearray(device.content)
    loop.wait_passes(1)
    made, files = _restored(device, bytearray(device.memory.ram), disk).judge()
    assert codes(made) == [Code.DISK_LOOP_FAILED]
    assert codes(files) == [Code.DISK_FILES_GONE]


def test_disk_that_falls_silent_is_a_failed_loop(device: _Device) -> None:
    """It says so, and that the blocks could not be read."""
    loop = _started(device)
    loop.wait_passes(2)
    device.silent = True
    made, files = loop.judge()
    assert sentences(made) == [
        "The loop that writes to the disk failed: the disk does not carry out its requests."
    ]
    assert sentences(files) == ["The disk could not be read to the end of the record."]


def test_marks() -> None:
    """Each pass writes the half that the pass before left alone."""
    assert not any(any(mark) for mark in marks_after(0))
    first, second, third = marks_after(1), marks_after(2), marks_after(3)
    assert (first[8:], second[:8], third[8:]) == (marks_after(0)[8:], first[:8], second[8:])
    assert first[0] != third[0]
    assert len(set(third)) == len(third) == 16


def test_blocks_are_judged_by_their_digests() -> None:
    """Changed, gone and unknown blocks."""
    blocks = [bytes([number]) * BLOCK_BYTES for number in (1, 2, 3)]
    record = {f"file-{at}": hashlib.sha256(block).hexdigest() for at, block in enumerate(blocks)}
    empty = bytes(BLOCK_BYTES)
    assert sentences(judge_blocks(record, [*blocks, empty])) == []
    assert sentences(judge_blocks(record, [blocks[1], empty, blocks[2], blocks[0]])) == [
        "A block differs from the record in memory: file-0.",
        "'file-1' is gone from the disk.",
        "'file-3' is on the disk, but not in the record in memory.",
    ]


def test_machine_whose_disk_the_host_cannot_drive(tmp_path: Path) -> None:
    """The test is skipped before anything is booted."""
    run = make_run(tmp_path)
    object.__setattr__(run.stack.image, "bare", True)
    object.__setattr__(run.stack, "machine", "microvm")
    with pytest.raises(NotApplicable, match="machine type 'microvm'"):
        with_disk._make_disk(tmp_path / "disk", run)
