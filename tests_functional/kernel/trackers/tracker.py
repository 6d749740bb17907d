"""The interface of write trackers: a session with writing threads, and a snapshot with its cost."""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass, field
from typing import Callable

from harness.userfaultfd import Region

from .writers import Writers


class TrackerFailed(Exception):
    """The tracker could not complete its snapshot; the writers go on."""


@dataclass
class Session:
    """The memory and the writing threads that a tracker works on.

    Attributes:
        region: the memory.
        writers: the threads that write to it; the tracker pauses them where its method needs that.
        at_t0: the tracker calls it at T0, the instant that its snapshot describes, with the writers paused.
        may_sweep: returns whether the tracker may sweep, that is save pages that no thread has written. While
            it returns False the tracker only answers faults, which shows whether that works by itself.
            Raises WritersStuck when the writers stop although faults should be answered.
    """

    region: Region
    writers: Writers
    at_t0: Callable[[], None]
    may_sweep: Callable[[], bool]


@dataclass
class Stats:
    """The cost of a snapshot.

    Attributes:
        stun_ns: nanoseconds for which all writers were stopped.
        total_ns: nanoseconds from begin to end.
        faults: number of writes that waited.
        swept: number of pages saved without a fault.
        rounds: number of passes over memory.
    """

    stun_ns: int = 0
    total_ns: int = 0
    faults: int = 0
    swept: int = 0
    rounds: int = 1


@dataclass
class MemoryCopy:
    """The memory of one instant.

    Attributes:
        data: the region's bytes.
        stats: its cost.
    """

    data: bytearray
    stats: Stats = field(default_factory=Stats)

    @classmethod
    def of_size(cls, length: int) -> MemoryCopy:
        """Create an empty snapshot with room for `length` bytes."""
        return cls(bytearray(length))


class Tracker(abc.ABC):
    """A way to snapshot memory that is being written to.

    Attributes:
        name: its name in results.
        exact_start: whether T0 is the start of the snapshot, as it must be for a background snapshot; False
            where T0 is its end.
        stops_writers: whether the writers are stopped all the time.
    """

    name = ""
    exact_start = True
    stops_writers = False

    @abc.abstractmethod
    def missing(self) -> str:
        """Return why it cannot work on this host, empty if it can."""

    @abc.abstractmethod
    def snapshot(self, session: Session) -> MemoryCopy:
        """Take one snapshot.

        Raises:
            TrackerFailed: the method reached a limit of the kernel.
            WritersStuck: the writers stopped although faults should be answered.
        """


class StopTheWriters(Tracker):
    """The control: stop the writers, copy, resume. Right by construction; the stun is as long as the copy."""

    name = "stop"
    stops_writers = True

    def missing(self) -> str:
        """Return an empty string: it needs nothing."""
        return ""

    def snapshot(self, session: Session) -> MemoryCopy:
        """Copy the memory while the writers are stopped."""
        result = MemoryCopy.of_size(session.region.length)
        began = time.perf_counter_ns()
        session.writers.pause()
        session.at_t0()
        result.data[:] = session.region.load()
        session.writers.resume()
        result.stats.stun_ns = result.stats.total_ns = time.perf_counter_ns() - began
        result.stats.swept = session.region.pages
        return result
