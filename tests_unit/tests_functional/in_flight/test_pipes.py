"""Contract: a pipe is as full as it was told to be, and what arrives behind the filler is not lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from tests_functional.in_flight.pipes import PIPE_PAGE_BYTES, Pipes, pipes


def _write(far: Pipes, data: bytes) -> int:
    """Write as QEMU does."""
    end = os.open(far.path.with_name(far.path.name + ".out"), os.O_RDWR | os.O_NONBLOCK)
    try:
        return os.write(end, data)
    finally:
        os.close(end)


def test_full_pipe_takes_nothing(tmp_path: Path) -> None:
    """QEMU keeps all that it has to write."""
    with pipes(tmp_path / "pipe") as far:
        far.fill()
        with pytest.raises(BlockingIOError):
            _write(far, b"a")
        assert far.waiting() == 0


def test_room_that_is_left(tmp_path: Path) -> None:
    """QEMU writes as much as there is room, and that alone is received, zeros and all."""
    data = bytes(3 * PIPE_PAGE_BYTES)
    with pipes(tmp_path / "pipe") as far:
        far.fill(PIPE_PAGE_BYTES)
        assert _write(far, data) == far.waiting() == PIPE_PAGE_BYTES
        assert far.receive(PIPE_PAGE_BYTES, Deadline(5)) == data[:PIPE_PAGE_BYTES]
        assert far.waiting() == 0


def test_more_and_less_than_expected(tmp_path: Path) -> None:
    """What comes beyond the count is received too, and what does not come ends the wait."""
    with pipes(tmp_path / "pipe") as far:
        _write(far, b"abc")
        assert far.receive(1, Deadline(5)) == b"abc"
        assert far.receive(1, Deadline(0.01)) == b""


def test_bytes_that_nobody_reads(tmp_path: Path) -> None:
    """A device that takes nothing is told, and so is a pipe that is full."""
    with pipes(tmp_path / "pipe") as far:
        with pytest.raises(DeadlineExpired, match="QEMU's reading"):
            far.send(b"a", Deadline(0.05))
        with pytest.raises(SetupBroken, match="no room"):
            far.send(bytes(1 << 20), Deadline(0.05))
