"""Contract: the throttle copies every byte at its rate, and does not make up for a time without input."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from tests_functional.lib.measure import throttle

_PIECE = 64 << 10


class _Clock:
    """A clock that moves when the program sleeps, and by `late` at each write."""

    def __init__(self, late: float = 0.0) -> None:
        self.now, self.late, self.slept = 100.0, late, list[float]()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def _run(
    monkeypatch: pytest.MonkeyPatch, clock: _Clock, pieces: list[bytes], most: int, rate: float
) -> bytes:
    """Run the program on these reads, where each write takes `most` bytes at most; return its output."""
    left, out = [*pieces, b""], bytearray()

    def write(descriptor: int, data: memoryview) -> int:
        assert descriptor == 1
        out.extend(data[:most])
        clock.now += clock.late
        return min(most, len(data))

    def read(descriptor: int, length: int) -> bytes:
        assert (descriptor, length) == (0, _PIECE)
        return left.pop(0)

    monkeypatch.setattr(throttle, "os", SimpleNamespace(read=read, write=write))
    monkeypatch.setattr(throttle, "time", clock)
    throttle.main(rate)
    return bytes(out)


@pytest.mark.parametrize("most", [1000, _PIECE])
def test_every_byte_is_copied(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Also where a write takes only a part."""
    pieces = [os.urandom(_PIECE), os.urandom(100), os.urandom(_PIECE)]
    assert _run(monkeypatch, _Clock(), pieces, most, 1.0) == b"".join(pieces)


@pytest.mark.parametrize(
    ("rate", "sizes", "seconds"),
    [
        (1.0, [_PIECE] * 16, 1.0),
        (2.0, [_PIECE] * 16, 0.5),
        (1.0, [_PIECE // 4] * 16, 0.25),
        (40.0, [_PIECE], 1 / 640),
    ],
)
def test_rate_is_steady(
    monkeypatch: pytest.MonkeyPatch, rate: float, sizes: list[int], seconds: float
) -> None:
    """A MiB takes 1 s at 1 MiB/s; a smaller piece takes its share, and all sleeps are equally long."""
    clock = _Clock()
    _run(monkeypatch, clock, [bytes(size) for size in sizes], _PIECE, rate)
    assert sum(clock.slept) == pytest.approx(seconds)
    assert clock.slept == pytest.approx([seconds / len(sizes)] * len(sizes))


def test_short_delay_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes 15 ms of a piece's 62.5 ms leaves the rate as it is."""
    clock = _Clock(late=0.015)
    _run(monkeypatch, clock, [bytes(_PIECE)] * 16, _PIECE, 1.0)
    assert clock.now - 100 == pytest.approx(1.0)


@pytest.mark.parametrize(("gap", "seconds"), [(0.05, 0.125), (0.07, 0.125), (0.1, 0.1425), (5.0, 5.0425)])
def test_long_delay_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch, gap: float, seconds: float) -> None:
    """Two pieces of 62.5 ms after a gap: the program makes up for 20 ms at most, not at full speed."""
    clock = _Clock()
    waits, pieces = [gap, 0.0, 0.0], [bytes(_PIECE), bytes(_PIECE), b""]

    def read(_descriptor: int, _length: int) -> bytes:
        clock.now += waits.pop(0)
        return pieces.pop(0)

    monkeypatch.setattr(throttle, "os", SimpleNamespace(read=read, write=lambda _to, data: len(data)))
    monkeypatch.setattr(throttle, "time", clock)
    throttle.main(1.0)
    assert clock.now - 100 == pytest.approx(seconds)


def test_real_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with its input."""
    reading, writing = os.pipe()
    output, given = os.pipe()
    content = os.urandom(50_000)

    def feed() -> None:
        os.write(writing, content)
        os.close(writing)

    writer = threading.Thread(target=feed)
    writer.start()
    real = os.read, os.write
    monkeypatch.setattr(
        throttle,
        "os",
        SimpleNamespace(
            read=lambda _from, length: real[0](reading, length), write=lambda _to, data: real[1](given, data)
        ),
    )
    throttle.main(1000.0)
    writer.join()
    os.close(given)
    assert real[0](output, 100_000) == content
    os.close(reading)
    os.close(output)


def test_program_takes_its_rate_from_the_command_line() -> None:
    """It runs as QEMU's shell starts it, without this project's folder."""
    content = os.urandom(100_000)
    command = [sys.executable, "-I", "-S", throttle.__file__, "1000"]
    done = subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True, timeout=30)
    assert done.stdout == content
