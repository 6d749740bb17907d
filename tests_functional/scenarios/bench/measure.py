"""One sample: a guest is started afresh, saved in one way, and looked at from both sides meanwhile."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import migration
from harness.deadline import Deadline
from harness.errors import SnapproofError, UsageError
from harness.machine import Machine
from harness.qmp import CommandRefused
from harness.status import Status
from tests_functional.scenarios.bench.figures import STALL_QUANTILES, Bucket, buckets_us, quantile
from tests_functional.scenarios.bench.memory_use import MemoryUse, memory_use
from tests_functional.scenarios.bench.timeline import Recorder, WriteRate, write_rate
from tests_functional.scenarios.bench.warm_guest import Running, WarmGuest, remove, started
from tests_functional.scenarios.bench.ways import UNLIMITED, Saved, Sink, Way, prepare, save, snapshot_bytes
from tests_functional.scenarios.counters import AgentCounters
from tests_functional.scenarios.snapshot import sample_stun
from validators.judge import check_file

AROUND_SECONDS = 1.0
"""How long the write rate is looked at before and after a save."""

_START_SECONDS = 120.0
_SAVE_SECONDS, _SAVE_MIB_PER_SECOND = 30.0, 25.0
_GO_ON_SECONDS = 20.0
_RIGHT = "structure and write order are right"


@dataclass(frozen=True)
class Sample:
    """What one save cost. Figures are None where it failed, which `error` says.

    Attributes:
        ram_mib: of the guest.
        way: how it was saved.
        writer: what wrote meanwhile.
        sink: what took the bytes.
        repeat: which of several alike.
        stun_ms: STOP to RESUME by QEMU's event times.
        downtime_ms: by QEMU, None where it gives none.
        asked_ms: when the save was asked for, relative to T0, so below 0.
        total_ms: from the command until QEMU said that the save has completed; where the guest was stopped
            for it, until it ran again.
        qemu_total_ms: by QEMU, None where it gives none.
        size_bytes: of the file, or of the state in the disk.
        guest_gap_ms: the larger of the next two.
        guest_write_gap_ms: longest time from the end of one page write to that of the next, by guest time.
        guest_clock_gap_ms: longest time between two heartbeats that should be 10 ms apart, by guest time.
        stall_us: p50, p99, p99.9 and max of the page writes during the save, in microseconds by guest time.
        stall_histogram: of these: from, up to, how many.
        write_rate: pages written in each 100 ms before, during and after.
        again_stun_ms: stun of another background snapshot of the same process, thrown away; None where none
            was taken.
        given_up: whether the guest had to be stopped since a pre-copy did not catch up with its writes.
        memory_before: QEMU's, just before the save.
        memory_after: just after.
        judged: "" where the file was not judged, else what was found.
        error: what went wrong, "" where nothing did.
        status: DONE, or whose fault the error is.
    """

    ram_mib: int
    way: str
    writer: str
    sink: str
    repeat: int
    stun_ms: float | None = None
    downtime_ms: float | None = None
    asked_ms: float | None = None
    total_ms: float | None = None
    qemu_total_ms: float | None = None
    size_bytes: int | None = None
    guest_gap_ms: float | None = None
    guest_write_gap_ms: float | None = None
    guest_clock_gap_ms: float | None = None
    stall_us: Mapping[str, float | None] = field(
        default_factory=lambda: dict.fromkeys([*STALL_QUANTILES, "max"])
    )
    stall_histogram: Sequence[Bucket] = ()
    write_rate: WriteRate = field(default_factory=WriteRate)
    again_stun_ms: float | None = None
    given_up: bool = False
    memory_before: MemoryUse | None = None
    memory_after: MemoryUse | None = None
    judged: str = ""
    error: str = ""
    status: Status = Status.DONE

    @property
    def measured(self) -> bool:
        """Whether its figures count."""
        return self.status is Status.DONE

    @property
    def wrong(self) -> bool:
        """Whether its file was judged and is not a snapshot of T0."""
        return self.judged not in ("", _RIGHT)

    @property
    def rss_growth_kib(self) -> int | None:
        """By how much QEMU's resident memory grew."""
        before, after = self.memory_before, self.memory_after
        return after.resident - before.resident if before and after else None

    @property
    def page_tables_growth_kib(self) -> int | None:
        """By how much its page tables grew."""
        before, after = self.memory_before, self.memory_after
        return after.page_tables - before.page_tables if before and after else None

    def pages(self, when: str) -> float | None:
        """Pages written in 100 ms on average ``before``, ``during`` or ``after`` the save.

        None where no interval lies there as a whole, or nothing is known.
        """
        if self.asked_ms is None or self.total_ms is None:
            return None
        ended_ms = self.asked_ms + self.total_ms
        spans = {
            "before": (-math.inf, self.asked_ms),
            "during": (self.asked_ms, ended_ms),
            "after": (ended_ms, math.inf),
        }
        return self.write_rate.mean(*spans[when])

    def to_json(self) -> dict[str, Any]:
        """Its form in bench.json."""
        plain = {name: _rounded(value) for name, value in vars(self).items() if not name.startswith("memory")}
        before, after = self.memory_before, self.memory_after
        return {
            **plain,
            "stall_us": {name: _rounded(value) for name, value in self.stall_us.items()},
            "stall_histogram": [list(bucket) for bucket in self.stall_histogram],
            "write_rate": self.write_rate.to_json(),
            "rss_growth_kib": self.rss_growth_kib,
            "page_tables_growth_kib": self.page_tables_growth_kib,
            "huge_before_kib": before.huge if before else None,
            "huge_after_kib": after.huge if after else None,
            "error": self.error or None,
            "status": self.status.value,
        }


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def measure(
    warm: WarmGuest,
    way: Way,
    folder: Path,
    *,
    sink: Sink = UNLIMITED,
    repeat: int = 1,
    around_seconds: float = AROUND_SECONDS,
    judge: bool = False,
    again: bool = False,
) -> Sample:
    """Take one sample; a save that fails is a sample with an error.

    Args:
        warm: the guest, started afresh here and ended before this returns.
        way: how to save it.
        folder: of its own, on a disk with room for the file; its logs stay there only after an error.
        sink: what takes the bytes.
        repeat: number of the sample.
        around_seconds: how long to look at the write rate before and after the save.
        judge: whether to judge the file by all oracles that need no golden image; costs a second per 512 MiB.
        again: whether to take a second background snapshot, for its stun alone.

    Raises:
        NotApplicable: this QEMU or host cannot save so at all.
        KeyboardInterrupt: as ever.
    """
    named = (warm.stack.total_mib, way.value, warm.writer.value, sink.name, repeat)
    path = folder / "vmstate"
    # What the sample before has written must not be written back in the time of this one.
    os.sync()
    try:
        with started(warm, folder, way, Deadline(_START_SECONDS + warm.stack.total_mib / 8)) as running:
            prepare(running.machine, way)
            limit = Deadline(_save_seconds(warm, sink) + around_seconds)
            figures = _saved(running, way, path, sink, around_seconds, limit)
            if again and way.background:
                figures["again_stun_ms"] = sample_stun(
                    running.guest, Deadline(_save_seconds(warm, UNLIMITED))
                )
        verdict = _judged(path) if judge and way.makes_stream else ""
        remove(folder)
    except SnapproofError as error:
        if error.status is Status.SKIP:
            remove(folder)
            raise
        # What QEMU refuses or fails is the fault of what is measured.
        status = Status.FAIL if isinstance(error, CommandRefused) else error.status
        return Sample(*named, error=error.sentence, status=status)
    finally:
        path.unlink(missing_ok=True)
    wrong = "" if verdict in ("", _RIGHT) else f"The snapshot is wrong: {verdict}"
    status = Status.FAIL if wrong else Status.DONE
    return Sample(*named, **figures, judged=verdict, error=wrong, status=status)


def _judged(path: Path) -> str:
    try:
        found = check_file(path).violations
    except UsageError as error:
        # Of a file that a user names; here QEMU said that it has saved.
        return error.sentence
    return found[0].sentence if found else _RIGHT


def _save_seconds(warm: WarmGuest, sink: Sink) -> float:
    """Limit for a save; only one that hangs, or a pre-copy that does not converge, takes so long."""
    slowest = min(_SAVE_MIB_PER_SECOND, (sink.mib_per_second or _SAVE_MIB_PER_SECOND) / 2)
    return _SAVE_SECONDS + warm.stack.total_mib / slowest


def _saved(
    running: Running, way: Way, path: Path, sink: Sink, around_seconds: float, limit: Deadline
) -> dict[str, Any]:
    """Save, look, and let the guest go on; the figures of a Sample by name."""
    machine, counters = running.machine, running.counters
    with Recorder(counters.steps) as recorder:
        time.sleep(around_seconds)
        before, mark = memory_use(machine.process.pid), machine.qmp.mark()
        stalls, asked = counters.histogram(), time.monotonic()
        saved = save(way, machine, path, sink, limit)
        after = memory_use(machine.process.pid)
        machine.wait_status(lambda status: status == "running", Deadline(_GO_ON_SECONDS), "running again")
        _goes_on(machine, counters)
        stalls = counters.histogram() - stalls
        gaps_ms = counters.longest_gap() * 1e3, counters.longest_heartbeat_gap() * 1e3
        longest_now = counters.longest_write() * 1e6
        time.sleep(around_seconds)
    histogram = buckets_us(stalls)
    # Exact where the longest was the save's; else none of the save was longer than its bucket, nor than that.
    longest = min(longest_now, histogram[-1][1]) if histogram else 0.0
    return {
        **_times(machine, mark, asked, saved, recorder),
        "given_up": saved.given_up,
        "size_bytes": path.stat().st_size if way.makes_stream else snapshot_bytes(machine),
        "guest_gap_ms": max(gaps_ms),
        "guest_write_gap_ms": gaps_ms[0],
        "guest_clock_gap_ms": gaps_ms[1],
        "stall_us": stall_quantiles(histogram, longest),
        "stall_histogram": histogram,
        "memory_before": before,
        "memory_after": after,
    }


def stall_quantiles(histogram: Sequence[Bucket], longest: float) -> dict[str, float | None]:
    """The quantiles of a histogram, none above the longest that is known; None where nothing was timed."""
    found = {name: quantile(histogram, share) for name, share in STALL_QUANTILES.items()}
    return {
        **{name: None if value is None else min(value, longest) for name, value in found.items()},
        "max": longest if histogram else None,
    }


def _times(machine: Machine, mark: int, asked: float, saved: Saved, recorder: Recorder) -> dict[str, Any]:
    stun = migration.find_stun(machine, mark)
    if stun is None:
        raise machine.failure("QEMU did not send STOP and RESUME around T0")
    # QEMU stamps its events by the time of day.
    t0 = stun.stopped - (time.time() - time.monotonic())
    return {
        "stun_ms": stun.seconds * 1000,
        "downtime_ms": saved.downtime_ms,
        "asked_ms": (asked - t0) * 1000,
        "total_ms": saved.seconds * 1000,
        "qemu_total_ms": saved.total_ms,
        "write_rate": write_rate(recorder.times, recorder.pages, t0),
    }


def _goes_on(machine: Machine, counters: AgentCounters) -> None:
    """Wait until each writer has made two steps: a standstill counts once the step that ends it counts."""
    then, limit = counters.steps(), Deadline(_GO_ON_SECONDS)
    while any(now < one + 2 for now, one in zip(counters.steps(), then, strict=True)):
        if limit.expired:
            raise machine.failure("The save has completed, and a writer of the guest stands still")
        machine.pause(limit, 0.001)
