"""Contract: the checks on file, source guest and host go red on exactly what they are there for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.errors import SetupBroken
from harness.status import Status
from tests_functional.lib import source_checks
from tests_functional.lib.checks import skipped
from tests_functional.lib.guest import Guest
from tests_functional.lib.host_watch import HostState, Started
from tests_functional.lib.known_issues import load_known_issues
from tests_functional.lib.offline_checks import judge_oracles
from tests_functional.lib.save import Flow
from tests_functional.lib.source_checks import Baseline, judge_overlap, judge_source, judge_stall
from tests_unit.support.scenario_values import (
    AT_T0,
    GOLDEN_PAGES,
    PAGES,
    SOURCE,
    StandInAgent,
    check,
    offline,
    sentences,
    snapshot,
    stand_in_guest,
    write_order,
)
from validators.verdict import CheckResult

HOST = HostState(
    tainted=0,
    splats=("#5 WARNING: old",),
    descriptors=((0, "/dev/null"), (3, "/dev/kvm"), (4, "pipe:[7]")),
    processes=(Started(70, "helper"),),
)
SINK = Started(71, "cat", reads_from_qemu=True)


# What the file must confirm (offline_checks).


def test_t0_is_what_the_write_order_oracle_found() -> None:
    """T0 per thread and by the guest's clock; None where the oracle could not tell."""
    assert offline(check("header"), write_order()).t0 == AT_T0
    assert offline(check("header")).t0 is None
    assert offline(skipped("write-order", "x", "There is no agent.")).t0 is None


def test_complete_oracles_pass() -> None:
    """All agent pages verified, and all golden pages compared where there is a golden image."""
    golden = check("golden", facts={"pages compared": GOLDEN_PAGES})
    assert sentences(judge_oracles(offline(write_order()), snapshot(), SOURCE)) == []
    assert (
        sentences(judge_oracles(offline(write_order(), golden), snapshot(Flow.STOP_MIGRATE_CONT), SOURCE))
        == []
    )


def test_skipped_write_order_is_a_violation() -> None:
    """A file that lost the agent's traces must not pass as one without an agent."""
    lost = skipped("write-order", "x", "There is no agent.")
    (sentence,) = sentences(judge_oracles(offline(lost), snapshot(), SOURCE))
    assert "not found in the file: There is no agent." in sentence
    (sentence,) = sentences(judge_oracles(offline(check("header")), snapshot(), SOURCE))
    assert "it did not run" in sentence


def test_fewer_verified_pages_are_a_violation() -> None:
    """An oracle that passed on a part of the agent's pages has not looked."""
    order = write_order(**{"pages verified": PAGES - 1})
    assert sentences(judge_oracles(offline(order), snapshot(), SOURCE)) == [
        "The agent has 1000 pages, 999 were verified."
    ]


def test_golden_not_fully_compared_is_a_violation() -> None:
    """A golden oracle that compared less than all, or did not run, is no agreement."""
    partly = check("golden", facts={"pages compared": GOLDEN_PAGES - 1})
    for verdict, count in ((offline(write_order(), partly), 63), (offline(write_order()), 0)):
        assert sentences(judge_oracles(verdict, snapshot(Flow.STOP_MIGRATE_CONT), SOURCE)) == [
            f"The golden image has 64 pages, {count} were compared."
        ]


# The source guest and the host (source_checks).


def test_overlap() -> None:
    """Writers that wrote between T0 and the end of the save, counted."""
    result = judge_overlap(snapshot(), (710, 905))
    assert sentences(result) == []
    assert result.facts["pages_written_during_save"] == 185


def test_nothing_written_during_the_save() -> None:
    """A save with no write beside it proves nothing, whatever the other oracles say."""
    (sentence,) = sentences(judge_overlap(snapshot(), (800, 1000)))
    assert sentence.startswith("No page was written between T0 and the end of the save")


@pytest.mark.parametrize(("steps", "thread", "early"), [((699, 905), 0, 1), ((790, 880), 1, 20)])
def test_t0_before_the_save(steps: tuple[int, int], thread: int, early: int) -> None:
    """A thread older than the request shows, also where another thread is ahead by more."""
    assert sentences(judge_overlap(snapshot(), steps)) == [
        f"T0 in the file is {early} steps of thread {thread} before the save was asked for."
    ]


def test_lost_thread() -> None:
    """A file that knows fewer writers than the guest has."""
    assert sentences(judge_overlap(snapshot(), (710,))) == [
        "The file knows 1 writer threads, the guest has 2."
    ]


def _judged(
    monkeypatch: pytest.MonkeyPatch,
    guest: Guest,
    host: HostState = HOST,
    protected: int | None = 0,
    before: Baseline | None = None,
) -> dict[str, CheckResult]:
    monkeypatch.setattr(source_checks, "write_protected_pages", lambda _machine: protected)
    monkeypatch.setattr(source_checks, "look", lambda _which: host)
    return {result.name: result for result in judge_source(guest, before or Baseline(1, HOST))}


def test_healthy_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Baseline and judgement of the same guest on the same host agree."""
    monkeypatch.setattr(source_checks, "look", lambda _which: HOST)
    before = source_checks.baseline(stand_in_guest(SOURCE))
    assert before == Baseline(1, HOST)
    results = _judged(monkeypatch, stand_in_guest(SOURCE), before=before)
    assert list(results) == ["source-guest", "source-unprotected", "source-latency", "host"]
    assert all(sentences(result) == [] for result in results.values())


def test_latency_waits_for_enough_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old figures are dropped, and a median of a few writes is not taken."""
    few = replace(SOURCE, histogram=(0, 0, 0, 0, 0, 0, 0, 0, 1999))
    guest = stand_in_guest(few, few, SOURCE)
    assert sentences(_judged(monkeypatch, guest)["source-latency"]) == []
    assert cast(StandInAgent, cast(Any, guest.agent)).resets == 1


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
    """What its own agent says against it."""
    results = _judged(monkeypatch, stand_in_guest(replace(SOURCE, errors=3, state="paused")))
    assert sentences(results["source-guest"]) == [
        "The source guest's writers found 3 wrong pages.",
        "The source guest's writers are 'paused' after the snapshot.",
    ]


def test_source_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest stuck after the snapshot is a failed check, and the host is still looked at."""
    guest = stand_in_guest(SetupBroken("The guest does not answer over SSH."))
    results = _judged(monkeypatch, guest, replace(HOST, processes=(*HOST.processes, SINK)))
    (sentence,) = sentences(results["source-guest"])
    assert sentence.endswith("does not answer: The guest does not answer over SSH.")
    (violation,) = results["source-guest"].violations
    assert (violation.code, violation.fields) == (Code.SOURCE_SILENT, {"error": "setup.broken"})
    (issue,) = [issue for issue in load_known_issues() if issue.id == "F9"]
    assert not issue.recognises(violation)
    monkeypatch.setattr(source_checks, "waiting_threads", lambda _pid: ["CPU 0/TCG"])
    (violation,) = _judged(monkeypatch, guest)["source-guest"].violations
    assert "'CPU 0/TCG' waits in a page fault" in violation.sentence
    assert issue.recognises(violation)
    assert "source-latency" not in results
    assert results["host"].status is Status.FAIL


def test_stuck_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers that make no step any more are found out by the deadline."""
    monkeypatch.setattr(source_checks, "_SETTLE_SECONDS", 0.1)
    results = _judged(monkeypatch, stand_in_guest(replace(SOURCE, histogram=(5,))))
    assert "The writers' next steps did not happen" in sentences(results["source-guest"])[0]


def test_pages_left_write_protected(monkeypatch: pytest.MonkeyPatch) -> None:
    """One page left protected is a violation; a pagemap that cannot be read is a skip with its reason."""
    left = _judged(monkeypatch, stand_in_guest(SOURCE), protected=1)["source-unprotected"]
    assert sentences(left) == ["1 pages of guest RAM are still write-protected after the snapshot."]
    unread = _judged(monkeypatch, stand_in_guest(SOURCE), protected=None)["source-unprotected"]
    assert unread.status is Status.SKIP
    assert "pagemap" in unread.reason


def test_writers_that_stand_still() -> None:
    """Half of a save of 2 s is too long; a short save does not make the host's scheduling a fault."""
    assert judge_stall(snapshot(largest_gap_us=900_000)).status is Status.PASS
    assert sentences(judge_stall(snapshot(largest_gap_us=1_100_000))) == [
        "A writer of the guest stood still for 1.100 s during a save of 2.000 s."
    ]
    short = replace(snapshot().figures, total_ms=100)
    assert judge_stall(snapshot(figures=short, largest_gap_us=200_000)).status is Status.PASS


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tainted": 512}, "The host kernel's taint changed from 0 to 512."),
        (
            {"splats": ("#5 WARNING: old", "#9 WARNING: old")},
            "The host kernel logged: #9 WARNING: old",
        ),
        (
            {"descriptors": (*HOST.descriptors, (5, "anon_inode:[userfaultfd]"))},
            "QEMU still has 'anon_inode:[userfaultfd]' open after the snapshot.",
        ),
        (
            {"descriptors": (*HOST.descriptors, (5, "pipe:[8]"))},
            "QEMU still has 'pipe' open after the snapshot.",
        ),
        (
            {"descriptors": HOST.descriptors[1:]},
            "QEMU has closed its descriptor 0, which was '/dev/null'.",
        ),
        (
            {"processes": (*HOST.processes, SINK)},
            "Process 71 that QEMU started is left over: cat, which reads from QEMU.",
        ),
    ],
)
def test_host_keeps_something(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    """Each thing a snapshot may leave behind is named."""
    results = _judged(monkeypatch, stand_in_guest(SOURCE), replace(HOST, **changes))
    assert sentences(results["host"]) == [sentence]


def test_descriptor_closed_and_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor closed by mistake is found even where another file has got its number."""
    host = replace(HOST, descriptors=((0, "pipe:[9]"), *HOST.descriptors[1:]))
    assert sentences(_judged(monkeypatch, stand_in_guest(SOURCE), host)["host"]) == [
        "QEMU still has 'pipe' open after the snapshot.",
        "QEMU has closed its descriptor 0, which was '/dev/null' and is now 'pipe:[9]'.",
    ]


def test_host_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel's log is closed to us nothing is made up."""
    host = replace(HOST, splats=None)
    assert sentences(_judged(monkeypatch, stand_in_guest(SOURCE), host)["host"]) == []
