"""Contract: the source is judged by guest and host, also when the guest is silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import SetupBroken
from harness.status import Status
from tests_functional.lib import source_checks
from tests_functional.lib.guest import Guest
from tests_functional.lib.source_checks import Baseline, judge_overlap, judge_source, judge_stall
from tests_unit.support.scenario_values import HOST, SINK, SOURCE, sentences, snapshot, stand_in_guest
from validators.oracles.o5_source_guest import source_guest
from validators.oracles.o6_host.host_state import HostState
from validators.verdict import CheckResult


def _judged(
    monkeypatch: pytest.MonkeyPatch, guest: Guest, host: HostState, before: Baseline
) -> dict[str, CheckResult]:
    monkeypatch.setattr(source_guest, "write_protected_pages", lambda _machine: 0)
    monkeypatch.setattr(source_guest, "unlocated_blocks", lambda _machine: ())
    monkeypatch.setattr(source_checks, "capture_host_state", lambda _which: host)
    return {result.name: result for result in judge_source(guest, before)}


def test_healthy_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Baseline and judgement of the same guest on the same host agree."""
    monkeypatch.setattr(source_checks, "capture_host_state", lambda _which: HOST)
    before = source_checks.baseline(stand_in_guest(SOURCE))
    assert before == Baseline(1, HOST)
    results = _judged(monkeypatch, stand_in_guest(SOURCE), HOST, before)
    assert list(results) == ["source-guest", "source-unprotected", "source-latency", "host"]
    assert all(sentences(result) == [] for result in results.values())


def test_host_is_looked_at_beside_a_silent_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that no longer answers does not hide a process that is left over."""
    guest = stand_in_guest(SetupBroken("The guest does not answer over SSH."))
    left = replace(HOST, processes=(*HOST.processes, SINK))
    results = _judged(monkeypatch, guest, left, Baseline(1, HOST))
    assert {name: result.status for name, result in results.items()} == {
        "source-guest": Status.FAIL,
        "source-unprotected": Status.PASS,
        "host": Status.FAIL,
    }


@pytest.mark.parametrize(("completed", "status"), [((711, 905), Status.PASS), ((710, 905), Status.FAIL)])
def test_overlap_of_a_snapshot(completed: tuple[int, ...], status: Status) -> None:
    """The writers wrote after T0, before the save had completed."""
    assert judge_overlap(snapshot(steps_completed=completed), (710, 905)).status is status


@pytest.mark.parametrize(("gap_us", "status"), [(9000, Status.PASS), (1_900_000, Status.FAIL)])
def test_stall_of_a_snapshot(gap_us: int, status: Status) -> None:
    """A save of 2 s in which a writer waited for 1.9 s was no background snapshot."""
    assert judge_stall(snapshot(largest_gap_us=gap_us)).status is status
