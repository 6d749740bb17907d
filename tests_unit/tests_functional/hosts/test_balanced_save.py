"""Contract: what is said of a snapshot that was taken while the kernel moved memory between nodes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.codes import Code
from harness.status import Status
from tests_functional.hosts import balanced_save
from tests_functional.hosts.balanced_save import judge_balanced
from tests_functional.hosts.examination import BALANCED, Examination
from tests_functional.hosts.snapshots import Report
from tests_functional.lib.outcome import Outcome
from tests_unit.support.host_values import STARTED, host_plan, refused, saved
from validators.verdict import CheckResult, Violation

_NEWER = Violation("write-order", Code.WRITE_ORDER_NEWER, "Page 7 is newer than T0.")


def _judged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moved: int, *violations: Violation, name: str = "made"
) -> Outcome:
    plan = host_plan(folder, name=name)
    plan.sink(BALANCED).write_bytes(bytes(4096))
    status = Status.FAIL if violations else Status.PASS
    order = CheckResult("write-order", "One prefix.", status, violations, len(violations))
    monkeypatch.setattr(
        balanced_save, "check_file", lambda _, **_known: SimpleNamespace(check=lambda _: order)
    )
    outcome = judge_balanced(plan, Examination(name), Report((STARTED, saved(flow=BALANCED, moved=moved))))
    assert outcome is not None
    assert not plan.sink(BALANCED).exists()
    return outcome


def test_a_right_snapshot_needs_pages_that_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any it shows nothing."""
    outcome = _judged(tmp_path, monkeypatch, 1400)
    assert (outcome.status, outcome.figures["pages_moved"]) == (Status.PASS, 1400)
    assert _judged(tmp_path, monkeypatch, 0).status is Status.SKIP


def test_a_wrong_snapshot_fails_though_no_page_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known on the kernel that is known for it."""
    outcome = _judged(tmp_path, monkeypatch, 0, _NEWER)
    assert (outcome.status, outcome.figures["wrong_pages"]) == (Status.FAIL, 1)
    assert _judged(tmp_path, monkeypatch, 9, _NEWER, name="debian-11").status is Status.XFAIL


def test_a_host_that_cannot_is_skipped_with_its_reason(tmp_path: Path) -> None:
    """One that was not asked, or that refused background snapshots, has no such result."""
    plan, found = host_plan(tmp_path), Examination("made")
    cannot = {"event": "cannot", "flow": BALANCED, "text": "One node."}
    outcome = judge_balanced(plan, found, Report((STARTED, saved(), cannot)))
    assert outcome is not None
    assert (outcome.name, outcome.status, outcome.sentence) == (
        "hosts.made.balanced",
        Status.SKIP,
        "One node.",
    )
    assert judge_balanced(plan, found, Report((STARTED, saved()))) is None
    assert judge_balanced(plan, found, refused()) is None
