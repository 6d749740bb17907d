"""Contract: the checks on the restored guest go red on exactly what they are there for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from guest_images.agent.client import VerifyReport
from harness.deadline import Deadline
from tests_unit.support.scenario_values import (
    AT_T0,
    PAGES,
    SOURCE,
    T0_NS,
    sentences,
    stand_in_guest,
)
from validators.oracles.o3_restored_guest import restored_guest
from validators.verdict import T0


def test_restored_identity() -> None:
    """Another boot, another agent, parked writers: each has its sentence."""
    assert sentences(restored_guest._identity(SOURCE, SOURCE)) == []
    for changes, words in (
        ({"boot_id": "ffff"}, "has boot id ffff, the source had 5f0c"),
        ({"nonce": 78}, "runs another agent"),
        ({"state": "paused"}, "writers are 'paused'"),
    ):
        (sentence,) = sentences(restored_guest._identity(replace(SOURCE, **cast(Any, changes)), SOURCE))
        assert words in sentence


def _clock(seconds: float, moved: float = 0.0, t0: T0 | None = AT_T0, slept: bool = False) -> list[str]:
    """Judge a guest whose uptime is so far past T0, 1 s after its restore began."""
    ran = round(seconds * 1e9)
    offset = SOURCE.realtime_ns - SOURCE.monotonic_ns + round(moved * 1e9)
    status = replace(SOURCE, monotonic_ns=T0_NS + ran, realtime_ns=T0_NS + ran + offset)
    return sentences(restored_guest._clock(status, SOURCE, t0, 1.0, slept))


def test_restored_clock() -> None:
    """It goes on from T0: not back, not ahead of the time since the restore, wall clock with it."""
    assert _clock(0.4) == []
    assert _clock(2.9) == []
    assert "went back by 0.500 s behind T0" in _clock(-0.5)[0]
    assert "is 3.100 s past T0, 1.000 s after its restore" in _clock(3.1)[0]
    assert "wall clock moved by -60.000 s" in _clock(0.4, moved=-60)[0]
    assert "was not found in the file" in _clock(0.4, t0=None)[0]


def test_restored_clock_of_a_guest_that_slept() -> None:
    """Its wall clock may have gone on while its uptime stopped, never back."""
    assert _clock(0.4, moved=60, slept=True) == []
    assert "wall clock moved by 60.000 s" in _clock(0.4, moved=60)[0]
    assert "wall clock moved by -60.000 s" in _clock(0.4, moved=-60, slept=True)[0]


_REPORT = VerifyReport(PAGES, 0, (), ("ab", "cd"))
_MISMATCH = {"thread": 1, "index": 7, "pfn": 0x1234, "found_generation": 4, "expected_generation": 3}


def test_restored_memory_is_right() -> None:
    """All pages checked, none wrong, and the checksums are reported."""
    result = restored_guest._memory(_REPORT, SOURCE, 0)
    assert sentences(result) == []
    assert result.facts == {"pages": PAGES, "checksums": "ab cd"}


@pytest.mark.parametrize(
    ("report", "by_writers", "words"),
    [
        (
            replace(_REPORT, mismatch_count=1, mismatches=(_MISMATCH,)),
            0,
            "page 7 of thread 1 (guest page frame 0x1234) holds generation 4 instead of 3.",
        ),
        (replace(_REPORT, mismatch_count=5), 0, "5 pages are wrong in the restored guest."),
        (_REPORT, 2, "The writers found 2 wrong pages"),
        (replace(_REPORT, pages_checked=PAGES - 1), 0, "Only 999 of 1000 pages could be checked."),
    ],
)
def test_restored_memory_is_wrong(report: VerifyReport, by_writers: int, words: str) -> None:
    """A wrong page is named, also one that only a writer has seen; unchecked pages are no agreement."""
    (sentence,) = sentences(restored_guest._memory(report, SOURCE, by_writers))
    assert words in sentence


def test_restored_writers_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every writer must make steps; one that is stuck is not hidden by the other."""
    on = replace(SOURCE, steps=(900, 1100))
    naps: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(Deadline, "nap", lambda _self, seconds: naps.append(seconds))
        agent = stand_in_guest(SOURCE, SOURCE, on).agent
        assert sentences(restored_guest._goes_on(agent, Deadline(10))) == []
    assert len(naps) == 1
    monkeypatch.setattr(restored_guest, "_GOES_ON_SECONDS", 0.1)
    half = replace(SOURCE, steps=(901, 99_999))
    stuck = replace(SOURCE, steps=(700, 99_999))
    assert sentences(restored_guest._goes_on(stand_in_guest(SOURCE, half).agent, Deadline(10))) == []
    (sentence,) = sentences(restored_guest._goes_on(stand_in_guest(SOURCE, stuck).agent, Deadline(10)))
    assert "A writer made only 0 steps" in sentence


@pytest.mark.parametrize("right", ["running", "paused"])
def test_restored_state(right: str) -> None:
    """A restored guest runs exactly if it ran at T0."""
    assert sentences(restored_guest.check_run_state(right, right)) == []
    for wrong in {"running", "paused", "internal-error"} - {right}:
        assert f"at T0 it was '{right}'" in sentences(restored_guest.check_run_state(wrong, right))[0]
