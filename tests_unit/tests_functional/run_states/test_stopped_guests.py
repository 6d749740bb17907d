"""Contract: a save that changes whether the guest runs is seen, and so is a guest that runs all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable, SubjectFailed
from harness.qemu import migration
from harness.status import Status
from tests_functional.lib.save import Flow
from tests_functional.run_states import states, stopped_guests
from tests_functional.run_states.states import RUN_STATES
from tests_unit.support.scenario_values import make_run, sentences, snapshot


class _Machine:
    def __init__(self, status: str) -> None:
        self.qmp = self
        self._status = status

    def execute(self, command: str) -> dict[str, str]:
        assert command == "query-status"
        return {"status": self._status}


class _Counters:
    def __init__(self, *steps: int) -> None:
        self._steps = steps

    def steps(self) -> tuple[int, ...]:
        return self._steps


def _after(status: str, *steps: int) -> list[str]:
    saved = snapshot(Flow.STOPPED, steps_before=(700, 900))
    machine, counters = cast(Any, _Machine(status)), cast(Any, _Counters(*steps))
    return sentences(stopped_guests._judge_after(machine, counters, saved, RUN_STATES["paused"]))


def test_guest_that_stays_stopped() -> None:
    """Same state, not a step further: right."""
    assert _after("paused", 700, 900) == []


def test_guest_that_runs_after_the_save() -> None:
    """The violation names the run states before and after the save."""
    assert _after("running", 700, 950) == [
        "The guest is 'running' after the snapshot, and was 'paused' before."
    ]


def test_guest_that_ran_during_the_save() -> None:
    """Stopped again, but its writers went on meanwhile."""
    assert _after("paused", 701, 900) == ["The guest is 'paused', and yet its writers wrote during the save."]


def test_stopped_flow_promises_no_overlap() -> None:
    """A stopped guest writes nothing, so no page written during the save is asked for."""
    assert not Flow.STOPPED.background
    assert Flow.STOPPED.golden
    assert Flow.STOPPED.capability == "background-snapshot"


def test_kernel_that_cannot_suspend_is_a_skip() -> None:
    """A guest without suspend to RAM says nothing about QEMU."""

    class _Shell:
        def check(self, _command: str) -> str:
            return "freeze\n"

    guest = cast(Any, type("Guest", (), {"shell": _Shell(), "agent": None})())
    with pytest.raises(NotApplicable, match="cannot suspend to RAM, only: freeze"):
        states._suspend(guest, Deadline(1))


def test_qemu_that_ends_while_it_saves_fails_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is a violation of the state's check, with the code that known issues go by."""

    def save(*_: Any) -> Any:
        raise SubjectFailed("QEMU ended.", code=Code.QEMU_ENDED, fields={"qemu_said": "invalid-run-state"})

    @contextmanager
    def source(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(guest=SimpleNamespace(machine=None), counters=None)

    monkeypatch.setattr(stopped_guests, "writing_guest", source)
    monkeypatch.setattr(migration, "capability_on", source)
    monkeypatch.setattr(stopped_guests, "_save", save)
    state = replace(RUN_STATES["paused"], enter=lambda *_: None)
    outcome = stopped_guests._in(make_run(tmp_path), state)
    (check,) = outcome.checks
    assert (outcome.status, check.name) == (Status.FAIL, "run-states/paused/after")
    assert [violation.code for violation in check.violations] == [Code.QEMU_ENDED]


def test_state_of_ports_needs_them(tmp_path: Path) -> None:
    """A machine type whose devices cannot be reached from outside is a SKIP that names it."""
    run = make_run(tmp_path)
    run = replace(run, stack=replace(run.stack, machine="microvm"))
    with pytest.raises(NotApplicable, match="machine type 'microvm' does not have"):
        stopped_guests._in(run, RUN_STATES["io-error"])
