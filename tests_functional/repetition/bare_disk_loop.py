"""Writes blocks to the disk of a bare guest and keeps their digests in guest RAM, and compares both.

The host makes the steps of this loop, and all that the loop knows is in guest RAM: after a restore it goes on
with what was there at T0.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping, Sequence
from typing import ClassVar

from harness.codes import Code
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine
from tests_functional.lib.disk_loop import MARK_IS_WRONG, MORE_PASSES, NO_ANSWER, judge_loop
from tests_functional.repetition.bare_disk import (
    BLOCK_BYTES,
    READ_BLOCKS,
    WRITE_BLOCKS,
    BareDisk,
    DiskSilent,
    Request,
)
from validators.checks import Problem, judged
from validators.verdict import CheckResult

DISK_BYTES = 2 * MIB
"""Size of the guest's disk."""

_FILES = "The blocks on the disk are exactly those in the record in memory, with the same digests."

# The disk begins with marks. A pass reads all of them before it writes one half; the other half stays as the
# pass before left it. So one half shows a newer disk, whichever part of a pass T0 lies in.
_MARKS = READ_BLOCKS
_HALF = WRITE_BLOCKS[Request.WRITE_MANY]
# Behind the marks each pass writes a block of its own, as a program writes files.
_MOST_PASSES = 256
_FLUSH_EACH = 8
_DIGEST_BYTES = hashlib.sha256().digest_size
_EMPTY = bytes(BLOCK_BYTES)


class BareDiskLoop:
    """The loop in a source or restored guest.

    Attributes:
        passes_after: passes of the source after T0; a restored guest makes those of `judge` and no more.
    """

    passes_after: ClassVar = 4 * MORE_PASSES

    def __init__(self, machine: Machine) -> None:
        """Find the loop in the RAM of a running machine."""
        self._disk = BareDisk(machine)
        self._number = self._disk.end
        self._record = self._number + BLOCK_BYTES
        self._ended = "0"

    def start(self) -> None:
        """Set the disk up, and begin with pass 0.

        Raises:
            SetupBroken: the disk cannot be set up.
        """
        self._disk.memory.write(self._number, _EMPTY)
        self._disk.start()

    def passes(self) -> int:
        """Return the number of passes that were made or begun so far."""
        return int(struct.unpack("<Q", self._disk.memory.read(self._number, 8))[0])

    def record(self) -> dict[str, str]:
        """Return the SHA256 of each pass's own block by name, from the record in memory."""
        count = self.passes()
        data = self._disk.memory.read(self._record, count * _DIGEST_BYTES) if count else b""
        return {
            f"file-{number}": data[number * _DIGEST_BYTES :][:_DIGEST_BYTES].hex() for number in range(count)
        }

    def wait_passes(self, count: int) -> int:
        """Make passes, fewer if one goes wrong; return how many."""
        made = 0
        try:
            # What was begun before T0 comes first.
            self._finish()
            while made < count and self._ended == "0" and self.passes() < _MOST_PASSES:
                made += self._begin()
                self._finish()
        except DiskSilent:
            self._ended = str(NO_ANSWER)
        return made

    def begin_pass(self) -> None:
        """Begin a pass, and leave it where the disk has its writes but was not told of them."""
        self._begin()

    def end_pass(self) -> None:
        """Have the disk carry out what it was given.

        Raises:
            DiskSilent: it does not.
        """
        self._finish()

    def drop_caches(self) -> None:
        """Do nothing: a bare guest has no cache."""

    def judge(self) -> list[CheckResult]:
        """Make some more passes, and judge the blocks on the disk."""
        made = self.wait_passes(MORE_PASSES)
        try:
            blocks = self._blocks()
        except DiskSilent:
            self._ended, blocks = str(NO_ANSWER), []
        return [judge_loop(made, self._ended), judge_blocks(self.record(), blocks)]

    def _blocks(self) -> list[bytes]:
        """Return the blocks behind the marks."""
        starts = range(_MARKS, _MARKS + _MOST_PASSES, READ_BLOCKS)
        return [block for start in starts for block in self._disk.read(start)]

    def _begin(self) -> bool:
        """Read the marks, and give the disk the writes of a pass; return whether the marks were right."""
        number = self.passes()
        if self._disk.read(0) != marks_after(number):
            self._ended = str(MARK_IS_WRONG)
            return False
        data = os.urandom(BLOCK_BYTES)
        digest = hashlib.sha256(data).digest()
        self._disk.memory.write(self._record + number * _DIGEST_BYTES, digest)
        first = number % 2 * _HALF
        marks = b"".join(_mark(number, slot) for slot in range(first, first + _HALF))
        self._disk.offer(Request.WRITE_MANY, first, marks)
        self._disk.offer(Request.WRITE_ONE, _MARKS + number, data)
        if number % _FLUSH_EACH == _FLUSH_EACH - 1:
            self._disk.offer(Request.FLUSH)
        self._disk.memory.write(self._number, struct.pack("<Q", number + 1))
        return True

    def _finish(self) -> None:
        """Have the disk carry out the writes of the last pass, if it has not."""
        self._disk.notify()
        self._disk.wait()


def marks_after(passes: int) -> list[bytes]:
    """Return the marks on the disk after so many passes."""
    last = [passes - 1 - (passes - 1 - half) % 2 for half in (0, 1)]
    return [
        _mark(last[slot // _HALF], slot) if last[slot // _HALF] >= 0 else _EMPTY for slot in range(_MARKS)
    ]


def _mark(number: int, slot: int) -> bytes:
    return struct.pack("<QQ", number, slot + 1) * (BLOCK_BYTES // 16)


def judge_blocks(record: Mapping[str, str], blocks: Sequence[bytes]) -> CheckResult:
    """Check the blocks on a disk against the record in memory.

    Args:
        record: SHA256 of each block by name, in their order on the disk.
        blocks: as read from the disk; more than the record has.
    """
    problems = []
    for number, block in enumerate(blocks):
        name = f"file-{number}"
        if name not in record:
            if block != _EMPTY:
                sentence = f"'{name}' is on the disk, but not in the record in memory."
                problems.append(Problem(Code.DISK_FILES_UNKNOWN, sentence))
        elif block == _EMPTY:
            problems.append(Problem(Code.DISK_FILES_GONE, f"'{name}' is gone from the disk."))
        elif hashlib.sha256(block).hexdigest() != record[name]:
            sentence = f"A block differs from the record in memory: {name}."
            problems.append(Problem(Code.DISK_FILES_WRONG, sentence))
    if len(blocks) < len(record):
        problems.append(Problem(Code.DISK_FILES_GONE, "The disk could not be read to the end of the record."))
    return judged("disk-files", _FILES, problems, {"files": len(record)})
