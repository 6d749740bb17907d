"""Judge the source of a snapshot, guest and host, against what both were before the first one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests_functional.lib.guest import Guest
from tests_functional.lib.save import Snapshot
from validators.oracles.o5_source_guest.during_save import check_overlap, check_write_stall
from validators.oracles.o5_source_guest.source_guest import check_source_guest, median_write_bucket
from validators.oracles.o6_host.host import check_host
from validators.oracles.o6_host.host_state import HostState, capture_host_state
from validators.verdict import CheckResult


@dataclass(frozen=True)
class Baseline:
    """The source before its first snapshot.

    Attributes:
        median_bucket: of its write latency, see `median_write_bucket`.
        host: the host's state.
    """

    median_bucket: int
    host: HostState


def baseline(guest: Guest) -> Baseline:
    """Measure write latency and the host's state before a snapshot."""
    return Baseline(median_write_bucket(guest.agent), capture_host_state(guest.machine))


def judge_source(guest: Guest, before: Baseline) -> list[CheckResult]:
    """Check the source guest and the host after a snapshot, by oracles 5 and 6."""
    found = check_source_guest(guest.machine, guest.agent, before.median_bucket)
    return [*found, judge_source_host(guest, before)]


def judge_source_host(guest: Guest, before: Baseline) -> CheckResult:
    """Check the host after a snapshot of a guest that cannot go on, by oracle 6."""
    return check_host(before.host, capture_host_state(guest.machine))


def judge_overlap(snapshot: Snapshot, steps_at_t0: Sequence[int]) -> CheckResult:
    """Check that the writers wrote between T0 and the end of a save during which the guest ran."""
    return check_overlap(snapshot.steps_before, steps_at_t0, snapshot.steps_completed)


def judge_stall(snapshot: Snapshot) -> CheckResult:
    """Check that no write waited for the whole of a save during which the guest ran."""
    return check_write_stall(snapshot.largest_gap_us, snapshot.figures.total_ms, snapshot.gap_waited_us)
