"""Contract: a standstill is the host's as far as the vCPU, or what it waited for, got no processor."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.linux.run_queue import ProcessorTime, ThreadReading
from tests_functional.lib.starvation import waited_seconds

_NAMES = {1: "qemu-system-x86", 2: "CPU 0/KVM", 3: "CPU 1/KVM", 4: "bg_snapshot"}
_MS = 1_000_000


def _readings(*rows: tuple[float, Sequence[tuple[int, int]]]) -> list[ThreadReading]:
    """Return readings; each row has a moment, and ran and waited in ms of threads 1 to 4."""
    return [
        ThreadReading(
            moment,
            {thread: ProcessorTime(ran * _MS, waited * _MS) for thread, (ran, waited) in enumerate(times, 1)},
        )
        for moment, times in rows
    ]


def _waited(*rows: tuple[float, Sequence[tuple[int, int]]], start: float = 10.0, end: float = 11.0) -> float:
    return waited_seconds(_readings(*rows), _NAMES, start, end)


_CALM = (9.98, [(0, 0), (500, 900), (0, 0), (0, 0)])


def test_vcpu_that_got_no_processor() -> None:
    """It waited for all of the standstill; the wait counts in the first reading after the end."""
    after = [(0, 0), (505, 1850), (0, 0), (0, 0)]
    assert _waited(_CALM, (10.98, _CALM[1]), (11.01, after), (11.03, after)) == pytest.approx(0.95)


def test_vcpu_that_is_blocked() -> None:
    """A vCPU in a page fault wants no processor: the standstill is all QEMU's."""
    assert _waited(_CALM, (11.01, _CALM[1])) == 0.0


def test_vcpu_that_shares_a_processor() -> None:
    """One that runs half of the time did not stand still; its waits are no part of another's standstill."""
    assert _waited(_CALM, (11.01, [(0, 0), (500, 900), (500, 500), (0, 0)])) == 0.0


def test_thread_that_saves() -> None:
    """A page waits for two turns of the thread that saves it at most, however often that waits."""
    rows = [
        (10.0 + step / 4, [(0, 0), (500, 900), (0, 0), (10 * step, 200 * step + (50 if step > 2 else 0))])
        for step in range(5)
    ]
    assert _waited(_CALM, *rows) == pytest.approx(0.2 + 0.25)


def test_command_that_the_saving_thread_writes_to() -> None:
    """It is no thread of QEMU's, and has ended when the standstill is over."""
    calm = _CALM[1]
    rows = _readings(_CALM, (10.5, [*calm, (0, 0)]), (10.8, [*calm, (5, 280)]), (11.01, calm))
    assert waited_seconds(rows, _NAMES, 10.0, 11.0) == pytest.approx(0.28)


def test_only_two_threads_count() -> None:
    """A vCPU waits for one thread that saves and for its sink, not for all others at once."""
    late = [(9, 300), (500, 900), (0, 0), (9, 300), (9, 300)]
    rows = _readings((9.98, [*_CALM[1], (0, 0)]), (11.01, late))
    assert waited_seconds(rows, _NAMES, 10.0, 11.0) == pytest.approx(0.6)


def test_waits_at_one_time_are_no_longer_than_the_standstill() -> None:
    """All threads may have waited for the same processor."""
    late = [(0, 0), (505, 1850), (0, 0), (9, 900)]
    assert _waited(_CALM, (11.01, late)) == pytest.approx(1.0)


def test_waits_before_and_after_do_not_count() -> None:
    """Only readings around the standstill are looked at."""
    early = (8.0, [(0, 0), (0, 0), (0, 0), (0, 0)])
    late = (12.0, [(0, 0), (500, 2900), (0, 0), (0, 0)])
    assert _waited(early, _CALM, (11.01, _CALM[1]), late) == 0.0


def test_nothing_was_read() -> None:
    """Without readings, as of a QEMU on another host, nothing is the host's."""
    assert waited_seconds([], _NAMES, 10.0, 11.0) == 0.0
    assert _waited(_CALM) == 0.0
