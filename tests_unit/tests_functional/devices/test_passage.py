"""Contract: what goes wrong with a device is noted under its code; what is our own fault is raised."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import MachineryMissing, SetupBroken, SubjectFailed
from harness.guest.shell import GuestUnreachable
from harness.status import Status
from tests_functional.devices import passage as module
from tests_functional.devices.backends import Candidate
from tests_functional.devices.creation import create, last_words
from tests_functional.devices.listing import DeviceType
from tests_functional.devices.passage import End, Passage, put_through
from tests_unit.support.scenario_values import SOURCE, stack
from validators.checks import Problem, judged
from validators.verdict import CheckResult, Verdict

_FAKE = Path(__file__).parents[2] / "support/fake_qemu.py"
_DEVICE = Candidate("e1000", DeviceType("e1000", "Network", "PCI", ()), ("-device", "e1000"))


def _codes(passage: Passage) -> list[tuple[Code, Any]]:
    return [(one.code, one.fields["device"]) for one in passage.problems]


@pytest.mark.parametrize("error", [SetupBroken("Ours."), MachineryMissing("Gone.")])
def test_our_own_fault_is_no_problem_of_the_device(error: Exception) -> None:
    """It ends the sweep, which shows nothing then."""
    passage = Passage("e1000")
    with pytest.raises(type(error)):
        passage.blame(Code.DEVICES_LOST, cast(Any, error))
    assert passage.problems == []


@pytest.mark.parametrize("error", [SubjectFailed("It ended."), GuestUnreachable("It is silent.")])
def test_fault_of_qemu_is_noted_with_the_device(error: Any) -> None:
    """A guest that is silent in time is one too, though its class is that of a broken set-up."""
    passage = Passage("e1000")
    passage.blame(Code.DEVICES_LOST, error)
    assert _codes(passage) == [(Code.DEVICES_LOST, "e1000")]


def _onward(state: str, *steps: Sequence[int]) -> Passage:
    left = list(steps)
    counters = SimpleNamespace(steps=lambda: left.pop(0) if len(left) > 1 else left[0])
    qmp = SimpleNamespace(execute=lambda _command: {"status": state})
    passage = Passage("e1000")
    module._require_onward(
        cast(Any, SimpleNamespace(qmp=qmp)), cast(Any, counters), Deadline(0.05), passage, "source guest"
    )
    return passage


def test_guest_that_writes_goes_on() -> None:
    """Every writer has to."""
    assert _onward("running", (5, 7), (5, 8), (6, 8)).problems == []


@pytest.mark.parametrize(
    ("state", "steps"), [("paused", [(1,), (2,)]), ("running", [(1,)]), ("running", [(1, 1), (2, 1)])]
)
def test_guest_that_stands_still_is_a_problem(state: str, steps: list[Sequence[int]]) -> None:
    """It is stopped, or is said to run and a writer of it does not write."""
    assert _codes(_onward(state, *steps)) == [(Code.DEVICES_STANDS_STILL, "e1000")]


def _judged_file(monkeypatch: pytest.MonkeyPatch, verified: int, *found: Problem) -> Passage:
    order = CheckResult("write-order", "", Status.PASS, facts={"pages verified": verified})
    verdict = Verdict((order, judged("other", "", found)))
    monkeypatch.setattr(module, "check_file", lambda _path, **_known: verdict)
    passage = Passage("e1000")
    module._judge_file(Path("guest-1/source/vmstate"), SOURCE, passage)
    return passage


def test_file_is_judged_by_the_oracles(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the agent's pages must have been verified; more memory of a device may be zero."""
    zero = Problem(Code.RAM_NOT_EMPTY_ALL_ZERO, "Zero.")
    newer = Problem(Code.WRITE_ORDER_NEWER, "Newer.")
    pages = SOURCE.data_pages
    assert _judged_file(monkeypatch, pages, zero).problems == []
    assert _codes(_judged_file(monkeypatch, pages, zero, newer)) == [(Code.WRITE_ORDER_NEWER, "e1000")]
    assert _codes(_judged_file(monkeypatch, pages - 1)) == [(Code.ORACLES_AGENT_PAGES, "e1000")]


def test_restored_guest_that_finds_a_wrong_page_is_a_problem() -> None:
    """By a check of all of its memory, or by a writer before it overwrote a page."""
    for mismatches, errors, wrong in ((0, 0, False), (1, 0, True), (0, 1, True)):
        agent = SimpleNamespace(
            pause=lambda: None,
            verify=lambda count=mismatches: SimpleNamespace(mismatch_count=count),
            status=lambda count=errors: replace(SOURCE, errors=count),
        )
        passage = Passage("e1000")
        module._verify(cast(Any, SimpleNamespace(agent=agent)), passage)
        assert bool(passage.problems) == wrong


def _fake_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str) -> Any:
    wrapper = tmp_path / "qemu"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {_FAKE} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    monkeypatch.setenv("FAKE_QEMU", behaviour)
    return replace(stack(tmp_path), executable=wrapper)


def test_device_that_qemu_does_not_create_has_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is neither right nor wrong, alone or with others."""
    fake = _fake_stack(tmp_path, monkeypatch, "die-at-once")
    made = create(fake, _DEVICE, tmp_path / "creation")
    assert (made.created, made.words) == (False, "fake-qemu: no such machine")
    passage = put_through(fake, [_DEVICE], tmp_path / "guest", 1, Deadline(30), background=True)
    assert (passage.end, passage.words) == (End.NOT_CREATED, "fake-qemu: no such machine")
    assert passage.problems == []


def test_limit_of_the_machine_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep on a full host must not call its devices 'not created'."""
    fake = _fake_stack(tmp_path, monkeypatch, "no-memory")
    with pytest.raises(SetupBroken):
        create(fake, _DEVICE, tmp_path / "creation")
    with pytest.raises(SetupBroken):
        put_through(fake, [_DEVICE], tmp_path / "guest", 1, Deadline(30), background=True)


def test_last_words_are_no_trace(tmp_path: Path) -> None:
    """QEMU's log has the trace of userfaultfd, too."""
    log = tmp_path / "qemu.log"
    log.write_text("qemu: it is full\nuffd_create_fd_nosys 38\n7@1.2:uffd_register_fd 3\n", encoding="utf-8")
    assert last_words(tmp_path) == "qemu: it is full"
    log.write_text("uffd_create_fd_nosys 38\n", encoding="utf-8")
    assert last_words(tmp_path) == ""
