"""Contract: a save that fails since QEMU has closed its own standard input is F5, and no other is."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from tests_functional.explore import saving
from tests_functional.explore.known import known_issue
from tests_functional.explore.model import Model
from tests_functional.explore.steps import GuestChoice, Step, StepList
from tests_functional.lib.known_issues import load_known_issues
from tests_unit.support.explored_session import stand_in_session
from validators.verdict import Violation

_WORDS = "ram_save_setup failed: Input/output error"


def _nowhere(destination: str = "no-command", snapshot: bool = True) -> Step:
    return Step("save-nowhere", {"destination": destination, "snapshot": snapshot})


def _failed(lost: bool = True) -> Violation:
    fields = {"status": "failed", "qemu_said": "setup-write-failed"}
    return Violation(
        "explore/qemu",
        Code.SAVE_FAILED,
        "It fails.",
        fields={**fields, **({"lost_descriptors": "0"} if lost else {})},
    )


@pytest.mark.parametrize(
    ("steps", "lost", "version", "known"),
    [
        ([_nowhere()], True, "10.0.13", "F5"),
        ([_nowhere(), Step("begin")], True, "11.1.3", "F5"),
        ([Step("begin", {"early": True}), Step("cancel")], True, "10.0.13", "F5"),
        ([_nowhere()], False, "10.0.13", ""),
        ([_nowhere()], True, "7.2.22", ""),
        ([_nowhere(snapshot=False)], True, "10.0.13", ""),
        ([_nowhere("no-socket")], True, "10.0.13", ""),
        ([Step("begin")], True, "10.0.13", ""),
    ],
)
def test_a_save_without_standard_input(steps: list[Step], lost: bool, version: str, known: str) -> None:
    """The list must have a background snapshot that fails in its set-up, and QEMU have lost number 0."""
    taken = StepList(GuestChoice(), tuple(steps))
    assert known_issue(taken, [_failed(lost)], load_known_issues(), version) == known


@pytest.mark.parametrize(("closed", "fields"), [("<&-", {"lost_descriptors": "0"}), ("", {})])
def test_a_closed_input_is_seen(closed: str, fields: dict[str, str]) -> None:
    """The kernel says whether the process has number 0."""
    with subprocess.Popen(
        ["sh", "-c", f"exec {closed}; echo; exec sleep 60"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            session = stand_in_session(Model())
            cast(Any, session.machine).pid = process.pid
            assert saving._lost_input(session) == fields
            saving._refused(session, _WORDS)
            (violation,) = session.checks[0].violations
            assert violation.fields == {"status": "refused", "qemu_said": "setup-write-failed", **fields}
        finally:
            process.kill()


def test_nothing_is_said_of_a_qemu_that_has_ended() -> None:
    """It has no descriptors at all."""
    session = stand_in_session(Model())
    machine = SimpleNamespace(pid=1 << 30, alive=lambda: False)
    session.source = cast(Any, SimpleNamespace(guest=SimpleNamespace(machine=machine)))
    assert saving._lost_input(session) == {}
