"""Oracles 5 and 6: the source guest is unharmed, and neither host nor QEMU keeps anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from guest_images.agent.client import AgentStatus
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SnapproofError
from harness.linux.uffd_waiters import describe_waiting, waiting_fields, waiting_threads
from harness.qemu.ram import write_protected_pages
from tests_functional.lib.checks import Problem, judged, skipped
from tests_functional.lib.guest import Guest
from tests_functional.lib.host_watch import HostState, look
from tests_functional.lib.save import Snapshot
from validators.verdict import CheckResult

_SOURCE = "After the snapshot the source guest runs, answers over SSH, and its agent finds no error."
_OVERLAP = "The writers wrote while RAM was saved; without that the run would prove nothing."
_STALL = "No writer stood still for half of the save: a page that is written to is saved next."
_UNPROTECTED = "Nothing of guest RAM is left write-protected."
_LATENCY = "Writes are as fast after the snapshot as before it."
_HOST = "No new kernel warning or taint, no file or process of QEMU left over, no file of its own closed."

# A page that is asked for is saved next, so a write waits for some pages, not for a share of RAM; a sink
# that stands still for half of the save would look the same. Below the floor it is the host's scheduling.
_STALL_SHARE = 0.5
_STALL_FLOOR_SECONDS = 0.25
# virtio devices give theirs up when the guest stops and get new ones when it goes on (QEMU 10.0
# hw/virtio/virtio-bus.c), so their numbers mean nothing.
_EVENTFD = "anon_inode:[eventfd]"
_SETTLED_WRITES = 2000
_SETTLE_SECONDS = 30.0
# Histogram buckets double: three of them are a factor of eight, far above this machine's noise and
# far below a write-protect fault (hundreds of microseconds against single ones).
_LATENCY_BUCKETS = 3


@dataclass(frozen=True)
class Baseline:
    """The source before its first snapshot: what it must be like afterwards."""

    median_bucket: int
    host: HostState


def baseline(guest: Guest) -> Baseline:
    """Measure write latency and the host's state before a snapshot."""
    return Baseline(_median_bucket(_settled(guest)), look(guest.machine))


def judge_source(guest: Guest, before: Baseline) -> list[CheckResult]:
    """Check the source guest and the host after a snapshot.

    An unresponsive source is a failed check: QMP said that it runs.
    """
    try:
        status = _settled(guest)
    except SnapproofError as error:
        held = waiting_threads(guest.machine.pid)
        why = f"{error.sentence.rstrip('.: ')}{describe_waiting(held)}"
        silent = Problem(
            Code.SOURCE_SILENT,
            f"QEMU says that the source guest runs, but it does not answer: {why}.",
            {**error.fields, **waiting_fields(held), "error": error.code},
        )
        return [judged("source-guest", _SOURCE, [silent]), _unprotected(guest), _host(guest, before)]
    problems = []
    if status.errors:
        problems.append(
            Problem(Code.SOURCE_WRONG_PAGES, f"The source guest's writers found {status.errors} wrong pages.")
        )
    if status.state != "running":
        problems.append(
            Problem(
                Code.SOURCE_WRITERS_STATE,
                f"The source guest's writers are '{status.state}' after the snapshot.",
                {"state": status.state},
            )
        )
    return [
        judged("source-guest", _SOURCE, problems),
        _unprotected(guest),
        _latency(status, before),
        _host(guest, before),
    ]


def judge_overlap(snapshot: Snapshot, steps_at_t0: Sequence[int]) -> CheckResult:
    """Check that the writers wrote between T0 and the end of the save.

    Args:
        snapshot: of a flow in which the guest runs meanwhile.
        steps_at_t0: writer steps per thread at T0 as found in the file.
    """
    written = sum(snapshot.steps_completed) - sum(steps_at_t0)
    problems = []
    if written <= 0:
        problems.append(
            Problem(
                Code.OVERLAP_NOTHING_WRITTEN,
                "No page was written between T0 and the end of the save, so this run proves nothing.",
            )
        )
    # By thread, since the steps that one is ahead would hide those that another is behind.
    for thread, (before, at_t0) in enumerate(zip(snapshot.steps_before, steps_at_t0, strict=False)):
        if at_t0 < before:
            problems.append(
                Problem(
                    Code.OVERLAP_T0_TOO_EARLY,
                    f"T0 in the file is {before - at_t0} steps of thread {thread} before the save was "
                    "asked for.",
                )
            )
    if len(steps_at_t0) != len(snapshot.steps_before):
        problems.append(
            Problem(
                Code.OVERLAP_THREADS,
                f"The file knows {len(steps_at_t0)} writer threads, the guest has "
                f"{len(snapshot.steps_before)}.",
            )
        )
    return judged("overlap", _OVERLAP, problems, {"pages_written_during_save": written})


def judge_stall(snapshot: Snapshot) -> CheckResult:
    """Check that no write waited for the save as a whole instead of for one page.

    Args:
        snapshot: of a flow in which the guest runs meanwhile.
    """
    # Not only the time of its writes: with one vCPU, the guest's kernel stands still for it as well.
    gap, save = snapshot.largest_gap_us / 1e6, snapshot.figures.total_ms / 1e3
    problems = []
    if gap > max(_STALL_SHARE * save, _STALL_FLOOR_SECONDS):
        problems.append(
            Problem(
                Code.WRITE_STALL_TOO_LONG,
                f"A writer of the guest stood still for {gap:.3f} s during a save of {save:.3f} s.",
            )
        )
    return judged("write-stall", _STALL, problems, {"largest_gap_us": snapshot.largest_gap_us})


def _settled(guest: Guest) -> AgentStatus:
    """The agent's status after it has timed enough writes since now."""
    guest.agent.reset_stats()
    deadline = Deadline(_SETTLE_SECONDS)
    while True:
        status = guest.agent.status()
        if sum(status.histogram) >= _SETTLED_WRITES:
            return status
        deadline.check("The writers' next steps")
        deadline.nap(0.05)


def _median_bucket(status: AgentStatus) -> int:
    half, seen = sum(status.histogram) / 2, 0
    for bucket, count in enumerate(status.histogram):
        seen += count
        if seen >= half:
            return bucket
    return 0


def _latency(status: AgentStatus, before: Baseline) -> CheckResult:
    median = _median_bucket(status)
    problems = []
    if median > before.median_bucket + _LATENCY_BUCKETS:
        problems.append(
            Problem(
                Code.SOURCE_SLOWER,
                f"Half of the writes take over {1 << median} us after the snapshot, "
                f"{1 << before.median_bucket} us before it.",
            )
        )
    return judged("source-latency", _LATENCY, problems, {"median_us": 1 << median})


def _unprotected(guest: Guest) -> CheckResult:
    left = write_protected_pages(guest.machine)
    if left is None:
        return skipped("source-unprotected", _UNPROTECTED, "QEMU's pagemap cannot be read on this host.")
    problems = []
    if left:
        problems.append(
            Problem(
                Code.SOURCE_WRITE_PROTECTED,
                f"{left} pages of guest RAM are still write-protected after the snapshot.",
            )
        )
    return judged("source-unprotected", _UNPROTECTED, problems, {"pages": left})


def _host(guest: Guest, before: Baseline) -> CheckResult:
    now, then = look(guest.machine), before.host
    problems = []
    if now.tainted != then.tainted:
        problems.append(
            Problem(
                Code.HOST_TAINTED, f"The host kernel's taint changed from {then.tainted} to {now.tainted}."
            )
        )
    if now.splats is not None and then.splats is not None:
        problems += [
            Problem(Code.HOST_SPLAT, f"The host kernel logged: {line}")
            for line in now.splats
            if line not in then.splats
        ]
    problems += _left_open(then.descriptors, now.descriptors)
    problems += _closed(then.descriptors, now.descriptors)
    known = {process.pid for process in then.processes}
    problems += [
        Problem(
            Code.HOST_PROCESS_LEFT,
            f"Process {process.pid} that QEMU started is left over: {process.words}.",
            {"program": process.program, "reads": "qemu" if process.reads_from_qemu else ""},
        )
        for process in now.processes
        if process.pid not in known
    ]
    return judged("host", _HOST, problems)


def _left_open(then: Sequence[tuple[int, str]], now: Sequence[tuple[int, str]]) -> list[Problem]:
    """What is wrong where QEMU has more open than before, by number and name."""
    # Pipes are numbered; what counts is how many there are.
    old, new = (
        Counter(name.partition(":[")[0] if name.startswith("pipe:") else name for _, name in files)
        for files in (then, now)
    )
    return [
        Problem(Code.HOST_FILE_LEFT_OPEN, f"QEMU still has '{name}' open after the snapshot.", {"name": name})
        for name in new - old
    ]


def _closed(then: Sequence[tuple[int, str]], now: Sequence[tuple[int, str]]) -> list[Problem]:
    """What is wrong where QEMU no longer has a descriptor that it had before, by number and name."""
    there = dict(now)
    return [
        Problem(
            Code.HOST_FILE_CLOSED,
            f"QEMU has closed its descriptor {number}, which was '{name}'"
            + (f" and is now '{there[number]}'." if number in there else "."),
            {"number": number, "name": name},
        )
        for number, name in then
        if there.get(number) != name and name != _EVENTFD
    ]
