"""Contract: the check of the source guest goes red when it is silent, wrong, slow or still protected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.linux.uffd_waiters import Waiters
from harness.status import Status
from tests_functional.lib.guest import Guest
from tests_functional.lib.known_issues import load_known_issues
from tests_unit.support.scenario_values import SOURCE, StandInAgent, sentences, stand_in_guest
from validators.oracles.o5_source_guest import source_guest
from validators.oracles.o5_source_guest.source_guest import check_source_guest
from validators.verdict import CheckResult


def _judged(
    monkeypatch: pytest.MonkeyPatch,
    guest: Guest,
    protected: int | None = 0,
) -> dict[str, CheckResult]:
    monkeypatch.setattr(source_guest, "write_protected_pages", lambda _machine: protected)
    monkeypatch.setattr(source_guest, "unlocated_blocks", lambda _machine: ())
    return {result.name: result for result in check_source_guest(guest.machine, guest.agent, 1)}


def test_latency_waits_for_enough_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old figures are dropped, and a median of a few writes is not taken."""
    naps: list[float] = []
    monkeypatch.setattr(Deadline, "nap", lambda _self, seconds: naps.append(seconds))
    few = replace(SOURCE, histogram=(0, 0, 0, 0, 0, 0, 0, 0, 1999))
    guest = stand_in_guest(few, few, SOURCE)
    assert sentences(_judged(monkeypatch, guest)["source-latency"]) == []
    assert cast(StandInAgent, cast(Any, guest.agent)).resets == 1
    assert len(naps) == 2


@pytest.mark.parametrize(("bucket", "slow"), [(0, False), (4, False), (5, True), (9, True)])
def test_latency_buckets(monkeypatch: pytest.MonkeyPatch, bucket: int, slow: bool) -> None:
    """Up to a factor of eight over the baseline is noise, more is a page still protected."""
    histogram = tuple(3000 if number == bucket else 10 for number in range(12))
    guest = stand_in_guest(replace(SOURCE, histogram=histogram))
    problems = sentences(_judged(monkeypatch, guest)["source-latency"])
    assert problems == (
        [f"Half of the writes take over {1 << bucket} us after the snapshot, 2 us before it."] if slow else []
    )


def test_source_with_wrong_pages_or_parked_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong pages and parked writers that the source's agent reports are violations."""
    results = _judged(monkeypatch, stand_in_guest(replace(SOURCE, errors=3, state="paused")))
    assert sentences(results["source-guest"]) == [
        "The source guest's writers found 3 wrong pages.",
        "The source guest's writers are 'paused' after the snapshot.",
    ]


def test_source_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest stuck after the snapshot is a failed check, and the host is still looked at."""
    guest = stand_in_guest(SetupBroken("The guest does not answer over SSH."))
    results = _judged(monkeypatch, guest)
    (sentence,) = sentences(results["source-guest"])
    assert sentence.endswith("does not answer: The guest does not answer over SSH.")
    (violation,) = results["source-guest"].violations
    assert (violation.code, violation.fields) == (Code.SOURCE_SILENT, {"error": "setup.broken"})
    (issue,) = [issue for issue in load_known_issues() if issue.id == "F9"]
    assert not issue.recognises(violation)
    monkeypatch.setattr(source_guest, "find_waiters", lambda _pid: Waiters(("CPU 0/TCG",)))
    (violation,) = _judged(monkeypatch, guest)["source-guest"].violations
    assert "'CPU 0/TCG' waits in a page fault" in violation.sentence
    assert issue.recognises(violation)
    assert "source-latency" not in results


def test_stuck_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers that make no step any more are found out by the deadline."""
    monkeypatch.setattr(source_guest, "_SETTLE_SECONDS", 0.1)
    results = _judged(monkeypatch, stand_in_guest(replace(SOURCE, histogram=(5,))))
    assert "The writers' next steps did not happen" in sentences(results["source-guest"])[0]


def test_pages_left_write_protected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page left protected is a violation; a pagemap that cannot be read is a skip with its reason."""
    left = _judged(monkeypatch, stand_in_guest(SOURCE), protected=1)["source-unprotected"]
    assert sentences(left) == ["1 pages of guest RAM are still write-protected after the snapshot."]
    unread = _judged(monkeypatch, stand_in_guest(SOURCE), protected=None)["source-unprotected"]
    assert unread.status is Status.SKIP
    assert "pagemap" in unread.reason


def test_blocks_that_cannot_be_looked_at_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The facts name RAMBlocks whose address is not known, since their pages are not counted."""
    monkeypatch.setattr(source_guest, "write_protected_pages", lambda _machine: 0)
    monkeypatch.setattr(source_guest, "unlocated_blocks", lambda _machine: ("vga.vram", "vga.rom"))
    facts = source_guest.check_unprotected(stand_in_guest(SOURCE).machine).facts
    assert facts == {"pages": 0, "RAMBlocks not looked at": "vga.vram, vga.rom"}
