"""Contract: the checks of the source guest and of the restored guest go red exactly beyond their limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from guest_images.agent.client import AgentStatus, VerifyReport
from harness.codes import Code
from harness.deadline import Deadline
from harness.status import Status
from tests_functional.lib.guest import Guest
from tests_unit.support.scenario_values import (
    AT_T0,
    SOURCE,
    T0_NS,
    StandInAgent,
    codes,
    sentences,
    stand_in_guest,
)
from validators.oracles.o3_restored_guest import restored_guest
from validators.oracles.o3_restored_guest.restored_guest import check_restored_guest
from validators.oracles.o5_source_guest import source_guest
from validators.oracles.o5_source_guest.during_save import check_overlap, check_write_stall
from validators.oracles.o5_source_guest.source_guest import check_source_guest, median_write_bucket

_SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("ran_ns", "code"),
    [
        (-1, Code.RESTORED_CLOCK_BACK),
        (0, None),
        (1, None),
        (3 * _SECOND, None),
        (1_234_567_890, None),
        (3 * _SECOND + 1, Code.RESTORED_CLOCK_AHEAD),
    ],
)
def test_clock_of_a_restored_guest(ran_ns: int, code: Code | None) -> None:
    """From T0 on, and 2 s ahead of the time since the restore at most, which is 1 s here."""
    status = replace(SOURCE, monotonic_ns=T0_NS + ran_ns)
    status = replace(status, realtime_ns=status.monotonic_ns + SOURCE.realtime_ns - SOURCE.monotonic_ns)
    result = restored_guest._clock(status, SOURCE, AT_T0, 1.0, False)
    assert codes(result) == ([] if code is None else [code])
    assert result.facts == {"guest_ran_seconds": round(ran_ns / 1e9, 3)}


@pytest.mark.parametrize("slept", [False, True])
@pytest.mark.parametrize(
    ("moved_ns", "wrong", "wrong_after_sleep"),
    [
        (0, False, False),
        (2 * _SECOND, False, False),
        (2 * _SECOND + 1, True, False),
        (-2 * _SECOND, False, False),
        (-2 * _SECOND - 1, True, True),
    ],
)
def test_wall_clock_of_a_restored_guest(
    moved_ns: int, wrong: bool, wrong_after_sleep: bool, slept: bool
) -> None:
    """It may move by 2 s against the uptime; a guest that slept may be ahead by any time."""
    status = replace(SOURCE, monotonic_ns=T0_NS, realtime_ns=T0_NS + moved_ns)
    status = replace(status, realtime_ns=status.realtime_ns + SOURCE.realtime_ns - SOURCE.monotonic_ns)
    found = codes(restored_guest._clock(status, SOURCE, AT_T0, 1.0, slept))
    assert found == ([Code.RESTORED_WALL_CLOCK] if (wrong_after_sleep if slept else wrong) else [])


_MISMATCH = {"thread": 1, "index": 7, "pfn": 9, "found_generation": 4, "expected_generation": 3}


@pytest.mark.parametrize(
    ("report", "by_writers", "found"),
    [
        (VerifyReport(1000, 0, (), ()), 0, []),
        (VerifyReport(1001, 0, (), ()), 0, []),
        (VerifyReport(1000, 1, (), ()), 0, [Code.RESTORED_WRONG_PAGE]),
        (VerifyReport(1000, 2, (_MISMATCH, _MISMATCH), ()), 0, [Code.RESTORED_WRONG_PAGE] * 2),
        (VerifyReport(1000, 3, (_MISMATCH,), ()), 0, [Code.RESTORED_WRONG_PAGE]),
        (VerifyReport(1000, 0, (), ()), 1, [Code.RESTORED_OVERWRITTEN_PAGE]),
        (VerifyReport(1000, 1, (), ()), 1, [Code.RESTORED_OVERWRITTEN_PAGE]),
        (
            VerifyReport(999, 1, (_MISMATCH,), ()),
            1,
            [Code.RESTORED_WRONG_PAGE, Code.RESTORED_OVERWRITTEN_PAGE, Code.RESTORED_UNCHECKED_PAGE],
        ),
    ],
)
def test_memory_of_a_restored_guest(report: VerifyReport, by_writers: int, found: list[Code]) -> None:
    """Each wrong page that is described, those that writers found, and those that nobody looked at."""
    assert codes(restored_guest._memory(report, SOURCE, by_writers)) == found


class _Restored(StandInAgent):
    """Notes in which order it is asked."""

    def __init__(self, *answers: AgentStatus) -> None:
        super().__init__(*answers)
        self.log: list[str] = []

    def status(self) -> AgentStatus:
        self.log.append("status")
        return super().status()

    def pause(self) -> None:
        self.log.append("pause")

    def verify(self) -> VerifyReport:
        self.log.append("verify")
        return VerifyReport(1000, 0, (), ("ab",))

    def resume(self) -> None:
        self.log.append("resume")


def test_restored_guest_is_asked_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock first; its memory while the writers are parked; then they must go on."""
    monkeypatch.setattr(restored_guest.time, "monotonic", lambda: 101.0)  # type: ignore[attr-defined]
    first = replace(SOURCE, monotonic_ns=T0_NS, realtime_ns=T0_NS + SOURCE.realtime_ns - SOURCE.monotonic_ns)
    agent = _Restored(first, first, first, replace(first, steps=(900, 1100)))
    results = check_restored_guest(cast(Any, agent), SOURCE, AT_T0, 100.0, False, Deadline(5))
    assert agent.log == ["status", "pause", "verify", "resume", "status", "status", "status"]
    assert [result.name for result in results] == [
        "restored-identity", "restored-clock", "restored-memory", "restored-goes-on",
    ]  # fmt: skip
    assert {result.status for result in results} == {Status.PASS}
    assert results[3].facts == {"steps": 400}


@pytest.mark.parametrize(("begun", "found"), [(100.0, [Code.RESTORED_CLOCK_AHEAD]), (99.0, [])])
def test_clock_is_compared_with_the_time_since_the_restore_began(
    monkeypatch: pytest.MonkeyPatch, begun: float, found: list[Code]
) -> None:
    """A guest that is 4 s past T0 may be so 2 s after its restore began, and not after 1 s."""
    monkeypatch.setattr(restored_guest.time, "monotonic", lambda: 101.0)  # type: ignore[attr-defined]
    status = replace(SOURCE, monotonic_ns=T0_NS + 4 * _SECOND, steps=(900, 1100))
    status = replace(status, realtime_ns=status.monotonic_ns + SOURCE.realtime_ns - SOURCE.monotonic_ns)
    agent = _Restored(status, status, SOURCE, status)
    results = check_restored_guest(cast(Any, agent), SOURCE, AT_T0, begun, False, Deadline(5))
    assert codes(results[1]) == found


@pytest.mark.parametrize(
    ("steps", "stalled"), [((900, 1100), False), ((899, 5000), True), ((5000, 1099), True)]
)
def test_each_writer_of_a_restored_guest_makes_200_steps(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[int, int], stalled: bool
) -> None:
    """One step less is a writer that stalled, whatever the others do."""
    monkeypatch.setattr(restored_guest, "_GOES_ON_SECONDS", 0.05)
    agent = stand_in_guest(SOURCE, replace(SOURCE, steps=steps)).agent
    assert bool(codes(restored_guest._goes_on(agent, Deadline(5)))) == stalled


@pytest.mark.parametrize(
    ("gap_us", "save_ms", "stalled"),
    [
        (1_000_000, 2000, False),
        (1_000_001, 2000, True),
        (250_000, 0, False),
        (250_001, 0, True),
        (250_000, 500, False),
        (250_001, 500, True),
        (250_501, 501, True),
        (250_500, 501, False),
    ],
)
def test_stall_of_a_writer(gap_us: int, save_ms: int, stalled: bool) -> None:
    """Longer than half of the save, and than a quarter of a second."""
    result = check_write_stall(gap_us, save_ms)
    assert codes(result) == ([Code.WRITE_STALL_TOO_LONG] if stalled else [])
    assert result.facts == {"largest_gap_us": gap_us}


@pytest.mark.parametrize(
    ("waited_us", "status"),
    [(0, Status.FAIL), (399_999, Status.FAIL), (400_000, Status.SKIP), (2_000_000, Status.SKIP)],
)
def test_stall_that_the_host_may_have_caused(waited_us: int, status: Status) -> None:
    """It is no verdict if it might have been short enough without the threads' waits for a processor."""
    result = check_write_stall(900_000, 1000, waited_us)
    assert result.status is status
    if status is Status.SKIP:
        assert result.reason == (
            "The host is too busy to tell: a writer stalled for 0.900 s during a save of 1.000 s, and QEMU's "
            f"threads waited for a processor for {waited_us / 1e6:.3f} s of it."
        )


def test_short_stall_passes_whatever_the_host_does() -> None:
    """Waits for a processor only explain a stall that is too long."""
    assert check_write_stall(400_000, 1000, 300_000).status is Status.PASS


@pytest.mark.parametrize(
    ("before", "at_t0", "completed", "found"),
    [
        ((700, 900), (700, 900), (700, 901), []),
        ((700, 900), (700, 900), (700, 900), [Code.OVERLAP_NOTHING_WRITTEN]),
        ((700, 900), (701, 900), (700, 900), [Code.OVERLAP_NOTHING_WRITTEN]),
        ((700, 900), (699, 900), (700, 900), [Code.OVERLAP_T0_TOO_EARLY]),
        ((700, 900), (699, 899), (700, 900), [Code.OVERLAP_T0_TOO_EARLY] * 2),
        ((700, 900), (700,), (700, 900), [Code.OVERLAP_THREADS]),
        ((700,), (700, 1), (800,), [Code.OVERLAP_THREADS]),
        ((700, 900), (), (700, 900), [Code.OVERLAP_THREADS]),
    ],
)
def test_overlap_of_writers_and_save(
    before: tuple[int, ...], at_t0: tuple[int, ...], completed: tuple[int, ...], found: list[Code]
) -> None:
    """At least one page after T0, no thread from before the request, and every thread there."""
    assert codes(check_overlap(before, at_t0, completed)) == found


def _judged(
    monkeypatch: pytest.MonkeyPatch, guest: Guest, before: int, left: int | None = 0
) -> dict[str, Any]:
    monkeypatch.setattr(source_guest, "write_protected_pages", lambda _machine: left)
    monkeypatch.setattr(source_guest, "unlocated_blocks", lambda _machine: ())
    return {result.name: result for result in check_source_guest(guest.machine, guest.agent, before)}


@pytest.mark.parametrize(
    ("histogram", "bucket"),
    [
        ((2000,), 0),
        ((1000, 1000), 0),
        ((999, 1001), 1),
        ((0, 0, 2000), 2),
        ((500, 500, 1000), 1),
        ((500, 499, 1001), 2),
        ((0, 1001, 1000), 1),
    ],
)
def test_median_of_a_guests_writes(
    monkeypatch: pytest.MonkeyPatch, histogram: tuple[int, ...], bucket: int
) -> None:
    """The bucket in which half of the writes have been counted."""
    guest = stand_in_guest(replace(SOURCE, histogram=histogram))
    assert median_write_bucket(guest.agent) == bucket
    assert _judged(monkeypatch, guest, bucket)["source-latency"].facts == {"median_us": 1 << bucket}


@pytest.mark.parametrize(
    ("median", "before", "slower"), [(3, 0, False), (4, 0, True), (8, 5, False), (9, 5, True)]
)
def test_slower_by_more_than_a_factor_of_eight(
    monkeypatch: pytest.MonkeyPatch, median: int, before: int, slower: bool
) -> None:
    """Three buckets are noise."""
    guest = stand_in_guest(replace(SOURCE, histogram=(*([0] * median), 2000)))
    assert codes(_judged(monkeypatch, guest, before)["source-latency"]) == (
        [Code.SOURCE_SLOWER] if slower else []
    )


@pytest.mark.parametrize(("errors", "state", "found"), [
    (0, "running", []),
    (1, "running", [Code.SOURCE_WRONG_PAGES]),
    (0, "idle", [Code.SOURCE_WRITERS_STATE]),
    (2, "paused", [Code.SOURCE_WRONG_PAGES, Code.SOURCE_WRITERS_STATE]),
])  # fmt: skip
def test_state_of_a_source(
    monkeypatch: pytest.MonkeyPatch, errors: int, state: str, found: list[Code]
) -> None:
    """Each has its code, and the state is told to the known issues."""
    guest = stand_in_guest(replace(SOURCE, errors=errors, state=state))
    results = _judged(monkeypatch, guest, 1, left=2)
    assert codes(results["source-guest"]) == found
    assert results["source-unprotected"].facts == {"pages": 2}
    if state != "running":
        assert results["source-guest"].violations[-1].fields == {"state": state}


def test_fields_of_restored_violations() -> None:
    """Known issues tell cases apart by them."""
    status = replace(SOURCE, state="idle")
    assert restored_guest._identity(status, SOURCE).violations[0].fields == {"state": "idle"}
    (violation,) = restored_guest.check_run_state("paused", "running").violations
    assert violation.fields == {"state": "paused", "before": "running"}
    assert sentences(restored_guest.check_run_state("running", "running")) == []
