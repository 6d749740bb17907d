"""Contract: a planted fault on a host is missed only if the guest wrote while RAM was saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.errors import SetupBroken
from harness.status import Status
from tests_functional.hosts import examine, planted_save
from tests_functional.hosts.examination import PLANTED, Examination, HostPlan
from tests_functional.hosts.planted_save import STEPS, judge_planted_save
from tests_functional.hosts.snapshots import Report
from tests_functional.lib.outcome import Outcome
from tests_unit.support.host_values import STARTED, host_plan, saved
from validators.verdict import Violation

_NEWER = Violation("write-order", Code.WRITE_ORDER_NEWER, "Page 7 is newer than T0.")
_OLDER = Violation("write-order", Code.WRITE_ORDER_OLDER, "Page 7 is older than T0.")


def _judged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: int, *violations: Violation, acts: int = 1
) -> tuple[HostPlan, Outcome]:
    plan = host_plan(folder)
    plan.sink(PLANTED).write_bytes(bytes(4096))
    order = SimpleNamespace(violations=violations)
    monkeypatch.setattr(planted_save, "ActsPage", lambda _: SimpleNamespace(acts=acts))
    monkeypatch.setattr(
        planted_save, "check_file", lambda _, **_known: SimpleNamespace(check=lambda _: order)
    )
    report = Report((STARTED, saved(steps_meanwhile=meanwhile)))
    return plan, judge_planted_save(plan, Examination("made"), report)


@pytest.mark.parametrize("meanwhile", [0, STEPS])
def test_a_page_newer_than_t0_is_the_fault(
    meanwhile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few steps may be enough to show it."""
    plan, outcome = _judged(tmp_path, monkeypatch, meanwhile, _OLDER, _NEWER)
    assert outcome.status is Status.PASS
    assert outcome.sentence.endswith("was caught: Page 7 is newer than T0.")
    assert not plan.sink(PLANTED).exists()


@pytest.mark.parametrize("violations", [(), (_OLDER,)])
def test_a_fault_that_could_be_seen_and_was_not_is_a_failure(
    violations: tuple[Violation, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stays, to find out why."""
    plan, outcome = _judged(tmp_path, monkeypatch, STEPS, *violations)
    assert outcome.status is Status.FAIL
    assert f"went unseen, although each writer completed {STEPS} steps" in outcome.sentence
    assert plan.sink(PLANTED).exists()


def test_a_guest_that_hardly_wrote_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault cannot be seen in a file that is right by chance."""
    with pytest.raises(SetupBroken, match=f"only {STEPS - 1} steps during the save") as caught:
        _judged(tmp_path, monkeypatch, STEPS - 1)
    assert caught.value.code is Code.SETUP_LIMIT
    with pytest.raises(SetupBroken, match="never acted"):
        _judged(tmp_path, monkeypatch, STEPS, _NEWER, acts=0)


def test_an_error_leaves_the_other_snapshots_to_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the outcome of this save alone."""

    def broken(*_: object) -> Report:
        raise SetupBroken("The program ended early.")

    monkeypatch.setattr(examine, "save_planted", broken)
    found, unused = Examination("made"), cast("Any", None)
    assert examine._planted(host_plan(tmp_path), found, unused, unused, unused, print) is None
    assert [(one.name, one.status) for one in found.outcomes] == [("hosts.made.planted", Status.ERROR)]
