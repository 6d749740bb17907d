"""The sums of a run: what its passed tests have proven, and nothing of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.status import Status
from snapproof.report.run_result import OutcomeRecord, RunResult

_SNAPSHOT = {
    "pages_in_stream": 100,
    "agent_pages_verified_offline": 70,
    "agent_pages_verified_in_restored_guest": 70,
    "stun_ms": 2.5,
}


def _outcome(name: str, status: Status, *snapshots: dict[str, float]) -> OutcomeRecord:
    figures = {f"{n:02}/{key}": value for n, one in enumerate(snapshots) for key, value in one.items()}
    return OutcomeRecord(name, status, "x", figures={**figures, "stun_ratio": 3})


def test_totals_are_sums_over_passed_tests() -> None:
    """Each snapshot counts once; what a failed test had compared proves nothing."""
    live = {**_SNAPSHOT, "pages_written_during_save": 5}
    golden = {**_SNAPSHOT, "pages_compared_with_golden": 100}
    outcomes = [
        _outcome("a", Status.PASS, live, golden),
        _outcome("b", Status.PASS, live),
        _outcome("c", Status.FAIL, live),
    ]
    totals = RunResult(outcomes, "2026-01-01T00:00:00Z", 1.0, [], {}).to_json()["totals"]
    assert totals == {
        "snapshots_proven": 3,
        "pages_in_streams": 300,
        "pages_compared_with_golden": 100,
        "agent_pages_verified_offline": 210,
        "agent_pages_verified_in_restored_guests": 210,
        "pages_written_during_saves": 10,
    }


@pytest.mark.parametrize(
    ("statuses", "proven"), [(["PASS", "SKIP"], 1), (["PASS", "FAIL"], 0), (["XFAIL"], 0)]
)
def test_snapshots_of_an_interrupted_test_count(statuses: list[str], proven: int) -> None:
    """A night that is broken off after 900 right snapshots has proven 900, and none if one was wrong."""
    checks = [{"name": f"check-{number}", "status": status} for number, status in enumerate(statuses)]
    outcome = replace(_outcome("a", Status.ERROR, _SNAPSHOT), checks=checks)
    result = RunResult([outcome], "2026-01-01T00:00:00Z", 1.0, [], {})
    assert result.totals()["snapshots_proven"] == proven


def test_a_run_without_snapshots_has_proven_none() -> None:
    """A test of a refusal takes none."""
    result = RunResult([_outcome("a", Status.PASS)], "2026-01-01T00:00:00Z", 1.0, [], {})
    assert set(result.totals().values()) == {0}
