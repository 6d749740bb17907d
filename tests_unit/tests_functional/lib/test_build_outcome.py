"""Contract: an outcome's sentence and figures are those of its checks, also where nothing went wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.status import Status
from tests_functional.lib.build_outcome import Cycle, build_outcome, outcome_of, outcome_of_cycles
from tests_functional.lib.save import Flow
from tests_unit.support.scenario_values import check, make_run, offline, snapshot, write_order
from validators.checks import skipped
from validators.verdict import CheckResult


def _cycle(label: str, flow: Flow, *checks: CheckResult, **changes: Any) -> Cycle:
    return Cycle(label, snapshot(flow, **changes), offline(*checks))


def test_figures_of_a_live_snapshot(tmp_path: Path) -> None:
    """Each with its unit; what an oracle did not look at is 0."""
    cycle = _cycle("01-live", Flow.LIVE, write_order(), stun_ms=3.45678)
    assert outcome_of_cycles(make_run(tmp_path), [cycle], 2.0).figures == {
        "01-live/stun_ms": 3.457,
        "01-live/downtime_ms": 4,
        "01-live/total_ms": 2000,
        "01-live/file_bytes": 262_144,
        "01-live/largest_write_stall_us": 5000,
        "01-live/pages_in_stream": 64,
        "01-live/agent_pages_verified_offline": 1000,
        "01-live/agent_pages_verified_in_restored_guest": 0,
        "01-live/pages_written_during_save": 0,
    }


@pytest.mark.parametrize(
    ("flow", "changes", "names"),
    [
        (Flow.STOP_AND_SAVE, {}, set()),
        (Flow.LIVE, {}, {"pages_written_during_save"}),
        (Flow.STOPPED, {}, {"pages_compared_with_golden"}),
        (Flow.MAPPED_RAM, {}, {"pages_compared_with_golden"}),
        (Flow.STOP_MIGRATE_CONT, {}, {"pages_compared_with_golden", "pages_written_during_save"}),
        (Flow.STOP_AND_SAVE, {"started_by_itself": True}, {"guest_started_by_itself"}),
    ],
)
def test_figures_that_only_some_flows_have(
    tmp_path: Path, flow: Flow, changes: dict[str, Any], names: set[str]
) -> None:
    """A golden image is compared where there is one, and writers write while the guest runs."""
    found = outcome_of_cycles(make_run(tmp_path), [_cycle("a", flow, **changes)], 2.0).figures
    optional = {"pages_compared_with_golden", "pages_written_during_save", "guest_started_by_itself"}
    assert {name.removeprefix("a/") for name in found} & optional == names
    assert found.get("a/guest_started_by_itself", 1) == 1


@pytest.mark.parametrize(
    ("live", "samples", "control", "ratio", "shortest"),
    [
        ([3.0], [], [90.0], 30.0, 3.0),
        ([3.0, 2.0], [], [90.0, 80.0], 40.0, 2.0),
        ([3.0], [1.0, 9.0], [90.0], 90.0, 1.0),
        ([0.0], [], [90.0], 90_000.0, 0.0),
        ([1.2345], [], [90.0], 72.9, 1.234),
    ],
)
def test_ratio_of_the_shortest_stuns(
    tmp_path: Path,
    live: list[float],
    samples: list[float],
    control: list[float],
    ratio: float,
    shortest: float,
) -> None:
    """A busy host makes stuns longer, never shorter."""
    cycles = [_cycle(f"{n}-live", Flow.LIVE, stun_ms=stun) for n, stun in enumerate(live)]
    cycles += [_cycle(f"{n}-stop", Flow.STOP_AND_SAVE, stun_ms=stun) for n, stun in enumerate(control)]
    figures = outcome_of_cycles(make_run(tmp_path), cycles, 2.0, samples).figures
    assert figures["stun_ratio"] == ratio
    assert float(figures["shortest_live_stun_ms"]) == pytest.approx(shortest, abs=1e-3)


@pytest.mark.parametrize("flows", [[Flow.LIVE], [Flow.STOP_AND_SAVE], [Flow.LIVE_FILE, Flow.STOP_AND_SAVE]])
def test_no_ratio_without_both(tmp_path: Path, flows: list[Flow]) -> None:
    """Only a live save by a pipe is compared, with its control."""
    cycles = [_cycle(str(number), flow) for number, flow in enumerate(flows)]
    made = outcome_of_cycles(make_run(tmp_path), cycles, 2.0, [1.0])
    assert "stun_ratio" not in made.figures
    assert "stun-ratio" not in {entry.name for entry in made.checks}


@pytest.mark.parametrize(
    ("checks", "status", "sentence"),
    [
        ([check("a", "One.")], Status.FAIL, "01: a: One."),
        ([check("a", "One.", "Two.")], Status.FAIL, "01: a: One. (1 more violations)"),
        ([check("a", "One."), check("b", "Two.", "Three.")], Status.FAIL, "01: a: One. (2 more violations)"),
        (
            [skipped("a", "It demands.", "No.")],
            Status.SKIP,
            "Not every check could be made; see the checks that were skipped.",
        ),
        (
            [check("a")],
            Status.PASS,
            "The snapshot is exactly the guest at T0, and the guest went on unharmed.",
        ),
    ],
)
def test_sentence_of_a_snapshot(
    tmp_path: Path, checks: list[CheckResult], status: Status, sentence: str
) -> None:
    """The first violation with its snapshot and check, and how many more there are."""
    made = outcome_of_cycles(make_run(tmp_path), [_cycle("01", Flow.LIVE, *checks)], 2.5)
    assert (made.status, made.sentence, made.seconds) == (status, sentence, 2.5)
    assert [entry.name for entry in made.checks] == [f"01/{entry.name}" for entry in checks]


def test_violations_of_all_snapshots_and_the_ratio_are_counted(tmp_path: Path) -> None:
    """The sentence is the first snapshot's, the number is of all."""
    cycles = [
        _cycle("01", Flow.LIVE, check("a", "One."), stun_ms=10.0),
        _cycle("02", Flow.STOP_AND_SAVE, check("a", "Two.", "Three."), stun_ms=100.0),
    ]
    made = outcome_of_cycles(make_run(tmp_path), cycles, 2.0)
    assert made.sentence == "01: a: One. (3 more violations)"


def test_violation_of_a_worse_status_is_told_first() -> None:
    """The sentence is of a check that decides the status, not of one that a known issue explains."""
    known = replace(check("a", "Known."), status=Status.XFAIL)
    made = build_outcome("t", [known, check("b", "New.")], 1.0, "It holds.", {})
    assert (made.status, made.sentence) == (Status.FAIL, "b: New. (1 more violations)")


def test_outcome_of_a_run(tmp_path: Path) -> None:
    """It has the run's name and environment, its own seconds and its figures."""
    run = make_run(tmp_path)
    made = outcome_of(run, [check("a")], 2.5, "It holds.", {"stun_ms": 1.5})
    assert (made.name, made.seconds, made.sentence) == (run.name, 2.5, "It holds.")
    assert (made.figures, made.environment) == ({"stun_ms": 1.5}, run.environment())
