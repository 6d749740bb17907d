"""What all write trackers have in common: a session with writers, and a snapshot with its cost."""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass, field
from typing import Callable

from harness.userfaultfd import Region

from .writers import Writers


class TrackerFailed(Exception):
    """The tracker had to give up its snapshot; the writers live on."""


@dataclass
class Session:
    """What a tracker works on.

    Attributes:
        region: the memory.
        writers: write to it; the tracker stops them where its method needs that.
        at_moment: to be called, with the writers stopped, at the instant that the snapshot will describe.
        may_sweep: whether pages that nobody has written may be saved yet. False leaves only the answers to
            faults, which shows whether these are right; raises WritersStuck when the writers do not get on by
            them.
    """

    region: Region
    writers: Writers
    at_moment: Callable[[], None]
    may_sweep: Callable[[], bool]


@dataclass
class Stats:
    """What a snapshot cost.

    Attributes:
        stun_ns: how long the writers stood still as a whole.
        total_ns: from begin to end.
        faults: writes that were held up.
        swept: pages saved without one.
        rounds: passes over memory.
    """

    stun_ns: int = 0
    total_ns: int = 0
    faults: int = 0
    swept: int = 0
    rounds: int = 1


@dataclass
class Snapshot:
    """Memory of one instant.

    Attributes:
        data: as many bytes as the region has.
        stats: what it cost.
    """

    data: bytearray
    stats: Stats = field(default_factory=Stats)

    @classmethod
    def of_size(cls, length: int) -> Snapshot:
        """An empty one for `length` bytes."""
        return cls(bytearray(length))


class Tracker(abc.ABC):
    """A way to snapshot memory that is being written to.

    Attributes:
        name: for people.
        exact_start: whether the snapshot is of the instant at which it was asked for, as a background
            snapshot must be; False for one that describes its end.
        stops_writers: whether the writers stand still all the time.
    """

    name = ""
    exact_start = True
    stops_writers = False

    @abc.abstractmethod
    def missing(self) -> str:
        """Why it cannot work on this host, empty if it can."""

    @abc.abstractmethod
    def snapshot(self, session: Session) -> Snapshot:
        """Take one snapshot.

        Raises:
            TrackerFailed: the method met a limit of the kernel.
            WritersStuck: from the session.
        """


class StopTheWriters(Tracker):
    """The control: stop, copy, go on. Right by construction, and the stun is as long as the copy."""

    name = "stop"
    stops_writers = True

    def missing(self) -> str:
        """Nothing is needed."""
        return ""

    def snapshot(self, session: Session) -> Snapshot:
        """Copy while all stand still."""
        result = Snapshot.of_size(session.region.length)
        began = time.perf_counter_ns()
        session.writers.pause()
        session.at_moment()
        result.data[:] = session.region.load()
        session.writers.resume()
        result.stats.stun_ns = result.stats.total_ns = time.perf_counter_ns() - began
        result.stats.swept = session.region.pages
        return result
