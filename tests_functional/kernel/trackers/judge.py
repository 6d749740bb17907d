"""Run a write tracker against writing threads, and judge its snapshot by a golden copy and by write order."""

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
    """The result of `judge`.

    Attributes:
        problems: sentences that say what is wrong with the snapshot; empty if it is right.
        stats: what the snapshot cost, None if there is none.
        held_ns: nanoseconds of each write that waited for its page, sorted.
        plain_ns: nanoseconds of each write before the snapshot, sorted.
        written: pages written while the snapshot was taken: after T0, or before it where T0 is the end.
    """

    problems: list[str] = field(default_factory=list)
    stats: Stats | None = None
    held_ns: list[int] = field(default_factory=list)
    plain_ns: list[int] = field(default_factory=list)
    written: int = 0

    def cost(self) -> str:
        """Return the figures as one line of text."""
        if self.stats is None or not self.plain_ns:
            return "no figures"
        waits = "no write waits"
        if self.held_ns:
            waits = f"a write that waits takes {statistics.median(self.held_ns) / 1000:.1f} us"
        return (
            f"{waits}, a plain one takes {statistics.median(self.plain_ns) / 1000:.1f} us; "
            f"stun {self.stats.stun_ns / 1e6:.2f} ms of {self.stats.total_ns / 1e6:.1f} ms; "
            f"{self.stats.faults} faults, {self.stats.swept} pages swept, {self.stats.rounds} round(s)"
        )


@dataclass
class _JudgedRun:
    """One run of a tracker: the golden copy, and the steps of the writers before and after T0.

    The sweep is held back until faults alone have let the writers do `steps` writes.
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

    def at_t0(self) -> None:
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
                f"The writers stopped after {done} pages: a fault was never answered ({self.patience:.0f} s)."
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
    """Let a tracker snapshot a region while threads write to it, and judge the snapshot.

    Args:
        tracker: one that works on this host.
        region: memory that the threads write, all of it.
        make_store: called once per thread; returns the way in which it writes, see `stores`.
        threads: number of writing threads.
        steps: writes that must complete between T0 and the first swept page; at most the region's pages,
            since the first write of each page is the only one that waits.
        patience: seconds without any write after which the writers count as stuck.
        seed: of the write order.
    """
    # A tracker thread that wakes up waits for the GIL, by default up to 5 ms.
    sys.setswitchinterval(0.0005)
    order = WriteOrder(threads, region.pages // threads, region.page_bytes, seed)
    result = Judgement()
    with Writers(region, order, make_store) as writers:
        # A snapshot in which no page was written yet would show nothing.
        _wait_for(writers, order.pages // 2)
        result.plain_ns = sorted(writers.nanoseconds[0])
        run = _JudgedRun(region, writers, 0 if tracker.stops_writers else steps, patience)
        run.begin()
        try:
            snapshot = tracker.snapshot(Session(region, writers, run.at_t0, run.may_sweep))
        except (TrackerFailed, WritersStuck) as error:
            result.problems = [str(error)]
            return result
        result.written = writers.total() - run.begun
        # Only a thread's first write to a page waits: its later steps are plain writes.
        first = min(run.swept_at // threads, order.pages)
        held = [times[:first] for times in writers.nanoseconds]
    result.stats = snapshot.stats
    if tracker.exact_start and not tracker.stops_writers:
        result.held_ns = sorted(time for times in held for time in times)
    elif not tracker.exact_start:
        result.written = run.before
    if result.written < steps and not tracker.stops_writers and not writers.errors:
        result.problems.append(
            f"Only {result.written} of {steps} pages were written during the snapshot, so it shows nothing."
        )
    result.problems += [f"A write failed: {error}." for error in writers.errors]
    result.problems += _differences(snapshot.data, run.golden, region)
    result.problems += order.violations(bytes(snapshot.data))
    return result


def _wait_for(writers: Writers, steps: int) -> None:
    end = time.monotonic() + 10
    while writers.total() < steps and not writers.errors:
        if time.monotonic() > end:
            raise WritersStuck(f"The writers did only {writers.total()} of {steps} steps within 10 s.")
        time.sleep(0.002)


def _differences(data: bytearray, golden: bytes, region: Region) -> list[str]:
    """Compare the snapshot with the golden copy and return a sentence on the pages that differ, if any."""
    size = region.page_bytes
    bad = [
        page
        for page in range(region.pages)
        if data[page * size : (page + 1) * size] != golden[page * size : (page + 1) * size]
    ]
    if not bad:
        return []
    first = ", ".join(map(str, bad[:_MOST_PAGES]))
    return [f"{len(bad)} page(s) of the snapshot differ from memory at T0: {first}."]
