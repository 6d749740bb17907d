"""Judges a write tracker: the same two oracles for all, and that something was at stake."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Callable

from harness.userfaultfd import Region

from .order import WriteOrder
from .tracker import Session, Stats, Tracker, TrackerFailed
from .writers import Store, Writers, WritersStuck

_MOST_PAGES = 5


@dataclass
class Judgement:
    """What was found.

    Attributes:
        problems: what is wrong with the snapshot, as sentences; empty if nothing is.
        stats: what it cost, None if there was none.
        held_ns: how long each write took that had to wait for its page, sorted.
        plain_ns: how long writes took before the snapshot, sorted.
        written: pages written while the snapshot was taken: after its moment, or, where it describes its end,
            before that.
    """

    problems: list[str] = field(default_factory=list)
    stats: Stats | None = None
    held_ns: list[int] = field(default_factory=list)
    plain_ns: list[int] = field(default_factory=list)
    written: int = 0

    def cost(self) -> str:
        """The figures in one line."""
        if self.stats is None or not self.plain_ns:
            return "no figures"
        held = f"{statistics.median(self.held_ns) / 1000:.1f} us" if self.held_ns else "none"
        return (
            f"a held write {held}, a plain one {statistics.median(self.plain_ns) / 1000:.1f} us; "
            f"stun {self.stats.stun_ns / 1e6:.2f} ms of {self.stats.total_ns / 1e6:.1f} ms; "
            f"{self.stats.faults} faults, {self.stats.swept} pages swept, {self.stats.rounds} round(s)"
        )


@dataclass
class _Trial:
    """One run of a tracker, and what it must come up to.

    Before anything is swept, the writers must have got on by `steps` pages through faults alone.
    """

    region: Region
    writers: Writers
    steps: int
    patience: float
    golden: bytes = b""
    begun: int = 0
    before: int = 0
    seen: int = 0
    deadline: float = 0.0
    swept_at: int = 0

    def begin(self) -> None:
        self.begun, self.seen = self.writers.total(), 0
        self.deadline = time.monotonic() + self.patience

    def at_moment(self) -> None:
        self.golden = self.region.load()
        self.before = self.writers.total() - self.begun
        self.writers.measure()
        self.begin()

    def may_sweep(self) -> bool:
        done = self.writers.total() - self.begun
        if done > self.seen:
            self.seen, self.deadline = done, time.monotonic() + self.patience
        if done >= self.steps or self.writers.errors:
            self.swept_at = self.swept_at or done
            return True
        if time.monotonic() > self.deadline:
            raise WritersStuck(
                f"The writers stood still after {done} pages: in {self.patience:.0f} s a fault was "
                "never answered."
            )
        return False


def judge(
    tracker: Tracker,
    region: Region,
    make_store: Callable[[], Store],
    *,
    threads: int = 1,
    steps: int,
    patience: float = 5.0,
    seed: int = 1,
) -> Judgement:
    """Let a tracker snapshot a region while threads write to it, and judge what it gives.

    Args:
        tracker: works on this host.
        region: all of it is written to.
        make_store: gives each thread its way to write, see `stores`.
        threads: how many.
        steps: writes that must get through between the moment of the snapshot and the first page swept; at
            most the region's pages, since each is held up only once.
        patience: seconds without a single write after which they count as stuck.
        seed: of the write order.
    """
    # A tracker that has been woken waits for the interpreter's lock, by default up to 5 ms.
    sys.setswitchinterval(0.0005)
    order = WriteOrder(threads, region.pages // threads, region.page_bytes, seed)
    result = Judgement()
    with Writers(region, order, make_store) as writers:
        # Until then the pages are as they were filled, and a snapshot of no writes shows nothing.
        _wait_for(writers, order.pages // 2)
        result.plain_ns = sorted(writers.nanoseconds[0])
        trial = _Trial(region, writers, 0 if tracker.stops_writers else steps, patience)
        trial.begin()
        try:
            snapshot = tracker.snapshot(Session(region, writers, trial.at_moment, trial.may_sweep))
        except (TrackerFailed, WritersStuck) as error:
            result.problems = [str(error)]
            return result
        result.written = writers.total() - trial.begun
        # Each page is held up once: later steps of the same thread are plain writes.
        first = min(trial.swept_at // threads, order.pages)
        held = [times[:first] for times in writers.nanoseconds]
    result.stats = snapshot.stats
    if tracker.exact_start and not tracker.stops_writers:
        result.held_ns = sorted(time for times in held for time in times)
    elif not tracker.exact_start:
        result.written = trial.before
    if result.written < steps and not tracker.stops_writers and not writers.errors:
        result.problems.append(f"Only {result.written} pages were written meanwhile: nothing was at stake.")
    result.problems += [f"A write failed: {error}." for error in writers.errors]
    result.problems += _differences(snapshot.data, trial.golden, region)
    result.problems += order.violations(bytes(snapshot.data))
    return result


def _wait_for(writers: Writers, steps: int) -> None:
    end = time.monotonic() + 10
    while writers.total() < steps and not writers.errors:
        if time.monotonic() > end:
            raise WritersStuck("The writers do not write.")
        time.sleep(0.002)


def _differences(data: bytearray, golden: bytes, region: Region) -> list[str]:
    """Pages of the snapshot that are not those of the golden copy."""
    size = region.page_bytes
    bad = [
        page
        for page in range(region.pages)
        if data[page * size : (page + 1) * size] != golden[page * size : (page + 1) * size]
    ]
    if not bad:
        return []
    first = ", ".join(map(str, bad[:_MOST_PAGES]))
    return [f"{len(bad)} page(s) are not what they were at the moment of the snapshot: {first}."]
