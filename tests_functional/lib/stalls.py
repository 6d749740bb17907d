"""Measures how long the guest's writers stalled during a save."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from guest_images.agent.counters import AgentCounters
from guest_images.agent.format import LONG_GAP_NS
from harness.deadline import Deadline
from harness.linux.run_queue import ThreadReading
from tests_functional.lib.guest import Guest
from tests_functional.lib.starvation import waited_seconds

# Below what a save is judged by (o5_source_guest/during_save.py).
_CALM_SECONDS = 0.2
_BEGIN_SECONDS = 60.0
# A command over SSH ends in the guest a little later than here.
_AFTERMATH_SECONDS = 0.05
_GO_ON_SECONDS = 10.0
_READING_SECONDS = 1.0
# The agent records the times of gaps that are longer than this.
_LONG_SECONDS = LONG_GAP_NS / 1e9


@dataclass(frozen=True)
class Stalls:
    """The longest stalls of any writer.

    Attributes:
        stall_us: a single page write, in microseconds.
        gap_us: the part after T0 of the time from the end of one page write to that of the next, in
            microseconds.
        waited_us: how much of the gap the host may have caused, since threads of QEMU waited for a processor.
    """

    stall_us: int
    gap_us: int
    waited_us: int = 0


@dataclass(frozen=True)
class _Gap:
    """A time without a page write.

    Attributes:
        seconds: how long it was.
        end: when it ended, in seconds since the epoch, None where that is not known.
    """

    seconds: float
    end: float | None


def begin(guest: Guest, counters: AgentCounters) -> None:
    """Clear the writers' statistics just before a save, in a calm moment.

    Raises:
        DeadlineExpired: the host is too busy for the writers to be calm.
    """
    await_calm(guest, lambda: counters.longest_gap())


def await_calm(guest: Guest, longest_gap: Callable[[], float]) -> None:
    """Clear the writers' statistics, and repeat it as long as the command itself delays a writer.

    The command runs over SSH, whose programs take the writers' processor. On a busy host this was seen to
    last for seconds; it must not count as a stall of the save.

    Args:
        guest: its writers must be running.
        longest_gap: the longest time from one page write to the next since the statistics were cleared, in
            seconds.

    Raises:
        DeadlineExpired: the host is too busy for the writers to be calm.
    """
    limit = Deadline(_BEGIN_SECONDS)
    while True:
        guest.agent.reset_stats()
        limit.nap(_AFTERMATH_SECONDS)
        if longest_gap() < _CALM_SECONDS:
            return
        limit.check("A moment in which the guest's writers write without a pause")


def end(
    counters: AgentCounters,
    resumed: float,
    readings: Sequence[ThreadReading] = (),
    names: Mapping[int, str] = MappingProxyType({}),
) -> Stalls:
    """Return how long the writers stalled after a save had resumed the guest.

    The statistics are read from guest RAM as soon as the save has completed. The agent counts a stall
    only when it ends, so this waits for each writer, up to ten seconds. A writer that does not go on is found
    by the checks that ask the guest for an answer.

    Gaps before T0 are excluded, because a busy host can cause them: a guest was seen to get no processor for
    0.9 s between `begin` and T0.

    Args:
        counters: the writers'.
        resumed: time of RESUME, in seconds since the epoch.
        readings: of the times of QEMU's threads since then, to which one is still added.
        names: of QEMU's threads.
    """
    then, limit = counters.steps(), Deadline(_GO_ON_SECONDS)
    while not (limit.expired or gone_on(counters, then)):
        limit.nap(0.001)
    stall, gap = counters.longest_write(), _after(counters, resumed, counters.longest_gap())
    waited = 0.0 if gap.seconds < _LONG_SECONDS else _waited(gap, resumed, readings, names)
    return Stalls(int(stall * 1e6), int(gap.seconds * 1e6), int(waited * 1e6))


def _waited(gap: _Gap, resumed: float, readings: Sequence[ThreadReading], names: Mapping[int, str]) -> float:
    """Return how much of a gap the host may have caused, in seconds; the arguments are those of `end`."""
    end = time.time() if gap.end is None else gap.end
    start = resumed if gap.end is None else end - gap.seconds
    # A wait counts once it is over, so a reading from after the gap is needed.
    limit = Deadline(_READING_SECONDS)
    while readings and readings[-1].moment < end and not limit.expired:
        limit.nap(0.001)
    return waited_seconds(readings, names, start, end)


def gone_on(counters: AgentCounters, then: Sequence[int]) -> bool:
    """Return whether each writer has counted the stall that it was in when it had made these steps.

    That takes two more steps: a step is counted before the gap that it ends.
    """
    return all(now >= one + 2 for now, one in zip(counters.steps(), then, strict=True))


def _after(counters: AgentCounters, resumed: float, longest: float) -> _Gap:
    """Return the part after `resumed` of the longest gap; `longest` is the one since `begin`, in seconds."""
    if longest < _LONG_SECONDS:
        return _Gap(longest, None)
    gaps = counters.long_gaps()
    if gaps is None:
        # There were more gaps than the agent records, so the longest may have been after `resumed`.
        return _Gap(longest, None)
    clock = _clock_at(counters, resumed)
    parts = [_Gap(min(gap.seconds, gap.end - clock), resumed + gap.end - clock) for gap in gaps]
    return max([_Gap(_LONG_SECONDS, None), *parts], key=lambda part: part.seconds)


def _clock_at(counters: AgentCounters, moment: float) -> float:
    """Return the guest's clock at a moment since which the guest has run; wait for a new value of it."""
    told, limit = counters.guest_clock(), Deadline(_GO_ON_SECONDS)
    while counters.guest_clock() == told and not limit.expired:
        limit.nap(0.0005)
    return counters.guest_clock() - (time.time() - moment)
