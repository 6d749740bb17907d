"""Takes one sample: restores a guest, saves it in one way, and measures the cost in guest and host."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guest_images.agent.counters import AgentCounters
from harness.deadline import Deadline
from harness.errors import SnapproofError, UsageError
from harness.qemu import migration
from harness.qemu.machine import Machine, known_pid
from harness.qemu.qmp import CommandRefused
from harness.status import Status
from tests_functional.lib.measure.cases import AROUND_SECONDS, UNLIMITED, Sink, Way
from tests_functional.lib.measure.figures import STALL_QUANTILES, Bucket, buckets_us, quantile
from tests_functional.lib.measure.memory_use import MemoryUse, memory_use
from tests_functional.lib.measure.saves import Saved, prepare, save, snapshot_bytes
from tests_functional.lib.measure.warm_guest import Running, WarmGuest, remove, started
from tests_functional.lib.measure.write_rate import WriteRate, WriteRecorder, write_rate
from tests_functional.lib.save import sample_stun
from tests_functional.lib.stalls import gone_on
from validators.judge import check_file

_START_SECONDS = 120.0
_SAVE_SECONDS, _SAVE_MIB_PER_SECOND = 30.0, 25.0
_GO_ON_SECONDS = 20.0
_RIGHT = "structure and write order are right"


@dataclass(frozen=True)
class Sample:
    """The cost of one save. If the save failed, the figures are None and `error` says why.

    Attributes:
        ram_mib: RAM of the guest.
        way: how it was saved.
        writer: the writer in the guest.
        sink: the sink of the save.
        repeat: number of the sample among those of its case, from 1.
        stun_ms: STOP to RESUME by QEMU's event times.
        downtime_ms: QEMU's own downtime, None where it gives none.
        asked_ms: when the save was asked for, relative to T0; below 0.
        total_ms: from the command until QEMU said that the save has completed; where the guest was stopped
            for it, until it ran again.
        qemu_total_ms: QEMU's own total time, None where it gives none.
        size_bytes: size of the file, or of the state in the disk.
        guest_gap_ms: the larger of the next two.
        guest_write_gap_ms: longest time from the end of one page write to that of the next, by guest time.
        guest_clock_gap_ms: longest time between two heartbeats, which should be 10 ms apart, by guest time.
        stall_us: p50, p99, p99.9 and max of the page writes during the save, in microseconds by guest time.
        stall_histogram: the same page writes as buckets: from, up to, how many.
        write_rate: pages written in each 100 ms before, during and after the save.
        again_stun_ms: stun of a second background snapshot by the same process, None where none was taken.
        given_up: whether the guest had to be stopped because a pre-copy did not catch up with its writes.
        memory_before: memory of QEMU just before the save.
        memory_after: memory of QEMU just after it.
        judged: the result of judging the file, "" if it was not judged.
        error: the reason why the sample failed, "" if it did not.
        status: DONE, or the status that says whose fault the error is.
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
        """Whether its file was judged and is wrong."""
        return self.judged not in ("", _RIGHT)

    @property
    def rss_growth_kib(self) -> int | None:
        """Growth of QEMU's resident memory."""
        before, after = self.memory_before, self.memory_after
        return after.resident - before.resident if before and after else None

    @property
    def page_tables_growth_kib(self) -> int | None:
        """Growth of QEMU's page tables."""
        before, after = self.memory_before, self.memory_after
        return after.page_tables - before.page_tables if before and after else None

    def pages(self, when: str) -> float | None:
        """Return the mean number of pages written in 100 ms ``before``, ``during`` or ``after`` the save.

        Only whole intervals count. None where there is none, or where the save failed.
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
        """Return its form in bench.json."""
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
    """Take one sample. A save that fails gives a sample with an error.

    Args:
        warm: the saved guest, which is restored here and ended before this returns.
        way: how to save it.
        folder: a folder of its own with room for the file. Its logs are kept only after an error.
        sink: the sink of the save.
        repeat: number of the sample.
        around_seconds: how long to record the write rate before and after the save.
        judge: whether to judge the file by all oracles that need no golden image: a second per 512 MiB.
        again: whether to take a second background snapshot, of which only the stun is measured.

    Raises:
        NotApplicable: this QEMU or host cannot save in this way.
    """
    named = (warm.stack.total_mib, way.value, warm.writer.value, sink.name, repeat)
    path = folder / "vmstate"
    # Otherwise the host would write back the last sample's file during this one.
    os.sync()
    try:
        with started(warm, folder, way, Deadline(_START_SECONDS + warm.stack.total_mib / 8)) as running:
            prepare(running.machine, way)
            limit = Deadline(_save_seconds(warm, sink) + around_seconds)
            figures = _measured_save(running, way, path, sink, around_seconds, limit)
            if again and way.background:
                figures["again_stun_ms"] = sample_stun(
                    running.guest, Deadline(_save_seconds(warm, UNLIMITED))
                )
        judged = _judge(path) if judge and way.makes_stream else ""
        remove(folder)
    except SnapproofError as error:
        if error.status is Status.SKIP:
            remove(folder)
            raise
        # A refusal by QEMU counts as its failure: QEMU is what is measured.
        status = Status.FAIL if isinstance(error, CommandRefused) else error.status
        return Sample(*named, error=error.sentence, status=status)
    finally:
        path.unlink(missing_ok=True)
    wrong = "" if judged in ("", _RIGHT) else f"The snapshot is wrong: {judged}"
    status = Status.FAIL if wrong else Status.DONE
    return Sample(*named, **figures, judged=judged, error=wrong, status=status)


def _judge(path: Path) -> str:
    """Return the first violation of a file as a sentence, `_RIGHT` where there is none."""
    try:
        found = check_file(path, agent_ran=True).violations
    except UsageError as error:
        # Raised for a file that is no vmstate stream. Here QEMU has reported a completed save.
        return error.sentence
    return found[0].sentence if found else _RIGHT


def _save_seconds(warm: WarmGuest, sink: Sink) -> float:
    """Return the limit of a save; only one that hangs, or a pre-copy without end, takes so long."""
    slowest = min(_SAVE_MIB_PER_SECOND, (sink.mib_per_second or _SAVE_MIB_PER_SECOND) / 2)
    return _SAVE_SECONDS + warm.stack.total_mib / slowest


def _measured_save(
    running: Running, way: Way, path: Path, sink: Sink, around_seconds: float, limit: Deadline
) -> dict[str, Any]:
    """Save the guest, let it go on, and return the figures of a Sample by name."""
    machine, counters = running.machine, running.counters
    with WriteRecorder(counters.steps) as recorder:
        time.sleep(around_seconds)
        before, mark = memory_use(known_pid(machine)), machine.qmp.mark()
        stalls, asked = counters.histogram(), time.monotonic()
        saved = save(way, machine, path, sink, limit)
        after = memory_use(known_pid(machine))
        machine.wait_status(lambda status: status == "running", Deadline(_GO_ON_SECONDS), "running again")
        _goes_on(machine, counters)
        stalls = counters.histogram() - stalls
        gaps_ms = counters.longest_gap() * 1e3, counters.longest_heartbeat_gap() * 1e3
        longest_now = counters.longest_write() * 1e6
        time.sleep(around_seconds)
    histogram = buckets_us(stalls)
    # Exact if the longest write was during the save. If it was before, this is an upper bound: no write of
    # the save was longer than the last bucket's end, nor than the longest of all.
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
    """Return the quantiles of a histogram and its maximum, in microseconds.

    Args:
        histogram: page writes by duration.
        longest: the longest of them; no quantile is above it.

    Returns:
        Values by name, all of them None where the histogram is empty.
    """
    found = {name: quantile(histogram, share) for name, share in STALL_QUANTILES.items()}
    return {
        **{name: None if value is None else min(value, longest) for name, value in found.items()},
        "max": longest if histogram else None,
    }


def _times(
    machine: Machine, mark: int, asked: float, saved: Saved, recorder: WriteRecorder
) -> dict[str, Any]:
    stun = migration.find_stun(machine, mark)
    if stun is None:
        raise machine.failure("QEMU did not send STOP and RESUME around T0")
    # QEMU's event times are by the wall clock.
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
    """Wait until each writer has counted the stall that it was in, if any."""
    then, limit = counters.steps(), Deadline(_GO_ON_SECONDS)
    while not gone_on(counters, then):
        if limit.expired:
            raise machine.failure("The save has completed, but a writer of the guest does not go on")
        machine.pause(limit, 0.001)
