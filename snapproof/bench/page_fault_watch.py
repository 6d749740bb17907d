"""Watches the page faults of a QEMU: starts page_fault_trace.py on its host and reads its report."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from guest_images.agent.format import FINE_BUCKETS, fine_bucket_ns
from harness.deadline import Deadline
from harness.errors import Evidence, MachineryMissing, NotApplicable, SetupBroken
from harness.hosts.host import Host
from harness.hosts.link import script_of
from snapproof.bench import page_fault_lines, page_fault_trace, tracefs
from tests_functional.lib.measure.figures import STALL_QUANTILES, Bucket, quantile

# Read now, so that later changes of the files do not matter.
_SCRIPT = script_of(page_fault_trace, tracefs, page_fault_lines)
_ATTACH_SECONDS, _END_SECONDS = 60.0, 60.0
_LONGEST_US = 1 << 37


@dataclass(frozen=True)
class ThreadFaults:
    """The faults of one thread of QEMU.

    Attributes:
        tid: its id on the host.
        name: such as ``CPU 0/TCG``; QEMU chooses it, given ``-name NAME,debug-threads=on``.
        histogram: faults by duration in microseconds.
        max_us: the longest fault in microseconds.
    """

    tid: int
    name: str
    histogram: tuple[Bucket, ...]
    max_us: int

    @property
    def count(self) -> int:
        """Number of its faults."""
        return sum(count for _, _, count in self.histogram)

    def quantiles(self) -> dict[str, float]:
        """Return the quantiles of its faults in microseconds, by the names in STALL_QUANTILES."""
        found = {name: quantile(self.histogram, share) for name, share in STALL_QUANTILES.items()}
        return {name: min(value or 0.0, float(self.max_us)) for name, value in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Its form in the JSON output."""
        latency = {name: round(value, 1) for name, value in self.quantiles().items()}
        return {
            "tid": self.tid,
            "name": self.name,
            "count": self.count,
            "latency_us": {**latency, "max": self.max_us},
            "histogram": [list(bucket) for bucket in self.histogram],
        }


@dataclass(frozen=True)
class FaultReport:
    """The faults of a QEMU.

    Attributes:
        kernel: version of the host's kernel.
        pid: process id of the QEMU there.
        seconds: how long it was watched.
        threads: the threads that had faults, those with the most first.
        lost: events that the kernel dropped; if there are any, counts are too small.
        missed: returns that the kernel could not record because too many threads were waiting.
        unpaired: entries or returns whose other half was not seen.
        unread: lines of the trace that are neither.
    """

    kernel: str
    pid: int
    seconds: float
    threads: tuple[ThreadFaults, ...]
    lost: int
    missed: int
    unpaired: int
    unread: int

    def to_json(self) -> dict[str, Any]:
        """Its form in the JSON output."""
        return {**vars(self), "threads": [thread.to_json() for thread in self.threads]}


def report_of(lines: list[str]) -> FaultReport:
    """Read the lines that the watcher printed.

    Raises:
        NotApplicable: the host cannot be traced, with the reason.
        SetupBroken: the lines are not a report, or the watcher could not remove its instance from tracefs.
    """
    try:
        events = {event["event"]: event for event in map(json.loads, lines)}
        if "unavailable" in events:
            raise NotApplicable(str(events["unavailable"]["reason"]))
        attached, done = events["attached"], events["done"]
        threads = [_thread(tid, one) for tid, one in done["threads"].items()]
        report = FaultReport(
            kernel=str(attached["kernel"]),
            pid=int(attached["pid"]),
            seconds=float(done["seconds"]),
            threads=tuple(sorted(threads, key=lambda thread: -thread.count)),
            **{name: int(done[name]) for name in ("lost", "missed", "unpaired", "unread")},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        tail = "\n".join(lines[-5:])[-2000:]
        raise SetupBroken("The watcher ended without a report.", Evidence(log_tail=tail)) from error
    if not done["removed"]:
        raise SetupBroken(
            "The watcher could not remove its instance from tracefs; remove the folder "
            "'instances/snapproof-...' there by hand."
        )
    return report


def _thread(tid: str, one: Mapping[str, Any]) -> ThreadFaults:
    counts = {int(bucket): int(count) for bucket, count in one["buckets"].items()}
    if not all(0 <= bucket < FINE_BUCKETS and count > 0 for bucket, count in counts.items()):
        raise ValueError("no such bucket, or an empty one")
    histogram = tuple(
        (float(first), float(end), counts[bucket])
        for bucket in sorted(counts)
        for first, end in [fine_bucket_ns(bucket)]
    )
    return ThreadFaults(int(tid), str(one["name"]), histogram, min(int(one["max_us"]), _LONGEST_US))


def order(pid: int, seconds: float, marker: str = "") -> bytes:
    """Return the order for the watcher; see page_fault_trace."""
    return json.dumps({"pid": pid, "seconds": seconds, "marker": marker}).encode()


class Watcher:
    """A running watcher on this host."""

    def __init__(self, process: subprocess.Popen[bytes], first: str) -> None:
        self._process = process
        self._first = first

    def report(self, seconds: float = 0.0) -> FaultReport:
        """Wait until the watched process ends, at most `seconds`, then stop the watcher and read its report.

        Raises:
            NotApplicable, SetupBroken: see report_of.
        """
        try:
            out, _ = self._process.communicate(timeout=max(seconds, 0.001))
        except subprocess.TimeoutExpired:
            self._process.terminate()
            out, _ = self._process.communicate(timeout=_END_SECONDS)
        return report_of([self._first, *out.decode(errors="replace").splitlines()])


@contextmanager
def watched(pid: int, seconds: float) -> Iterator[Watcher]:
    """Watch a process of this host, which is traced as soon as the context is entered.

    Args:
        pid: id of the process.
        seconds: longest time to watch.

    Raises:
        NotApplicable: this host cannot be traced, with the reason.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdin is not None, "a pipe was asked for"
        assert process.stdout is not None, "a pipe was asked for"
        process.stdin.write(order(pid, seconds))
        process.stdin.close()
        process.stdin = None
        first = process.stdout.readline().decode(errors="replace")
        if '"attached"' not in first:
            report_of([first])
        yield Watcher(process, first)
    finally:
        if process.poll() is None:
            # Its second process notices its end and removes the tracing instance.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_END_SECONDS)
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def watch_on_host(host: Host, seconds: float, *, pid: int = 0, marker: str = "") -> FaultReport:
    """Watch a process on a host until it ends.

    Args:
        host: where it runs.
        seconds: longest time to watch.
        pid: id of the process, 0 for the first one that has `marker` among its arguments.
        marker: an argument of the process.

    Raises:
        NotApplicable: that host cannot be traced, with the reason.
        MachineryMissing, SetupBroken, DeadlineExpired: see Host.run and report_of.
    """
    done = host.run(
        [host.python, "-I", "-S", "-c", _SCRIPT],
        Deadline(seconds + _ATTACH_SECONDS),
        stdin=order(pid, seconds, marker),
    )
    if done.exit_code:
        raise MachineryMissing(f"The watcher does not run on the host '{host.name}': {done.last_words}")
    return report_of(done.stdout.decode(errors="replace").splitlines())
