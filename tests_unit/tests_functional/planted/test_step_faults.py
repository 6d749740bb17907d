"""Contract: a step that goes wrong counts as seen only by the check and the code that it stands for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guest_images.catalogue import guest_spec
from harness.codes import Code
from harness.status import Status
from tests_functional.lib.outcome import Outcome
from tests_functional.planted import step_faults
from tests_functional.planted.step_faults import STEP_FAULTS, STEP_GUESTS, planted_step
from tests_unit.support.scenario_values import make_run
from validators.checks import Problem, judged

_SEEN = {
    "refused-in-background": ("during-save/refused-in-background/answers", Code.DURING_SAVE_REFUSED),
    "setting-by-the-way": ("during-save/setting-by-the-way/settings", Code.DURING_SAVE_SETTINGS),
    "stuck-beside-ram": ("storage-keys/03-live/restored-goes-on", Code.BESIDE_RAM_STUCK),
    "untested-section": ("pseries/iterable-sections", Code.BESIDE_RAM_UNTESTED),
}
_FIELDS = {
    "command": "no-such-command",
    "setting": "downtime-limit",
    "state": "storage-keys",
    "section": "spapr/htab",
}


@pytest.mark.parametrize("name", STEP_FAULTS)
@pytest.mark.parametrize("wrong", ["", "check", "code", "field", "passed"])
def test_fault_is_seen_by_its_check_and_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, wrong: str
) -> None:
    """Another check, code or field is not enough, and neither is a run that passes."""
    check, code = _SEEN[name]
    fields = dict.fromkeys(_FIELDS, "other") if wrong == "field" else _FIELDS
    problem = Problem(Code.GOLDEN_DIFFERS if wrong == "code" else code, "So.", fields)
    problems = [] if wrong == "passed" else [problem]
    found = judged("another" if wrong == "check" else check, "It holds.", problems)
    status = Status.FAIL if problems else Status.PASS
    run_ended = Outcome("x", status, "So it is.", checks=(found,))
    fault = replace(STEP_FAULTS[name], scenario=lambda _run: run_ended)
    monkeypatch.setitem(cast(dict[str, Any], step_faults.STEP_FAULTS), name, fault)
    outcome = planted_step(name)(make_run(tmp_path))
    assert outcome.status is (Status.FAIL if wrong else Status.PASS)


@pytest.mark.parametrize(("background", "given"), [(True, ["no-such-command"]), (False, [])])
def test_command_is_refused_in_the_background_alone(background: bool, given: list[str]) -> None:
    """The control does as well as it can, so that nothing excuses the background snapshot."""
    told: list[str] = []
    listed = [{"capability": "background-snapshot", "state": background}, {"capability": "x", "state": True}]
    machine = SimpleNamespace(qmp=SimpleNamespace(execute=lambda _command: listed))
    step_faults._refuse_in_background(cast(Any, SimpleNamespace(machine=machine, give=told.append)))
    assert told == given


def test_guests_of_faults() -> None:
    """A fault of one architecture's state has a guest of that architecture."""
    names = {name: guest_spec(guest).architecture.name for name, guest in STEP_GUESTS.items()}
    assert names["stuck-beside-ram"] == "s390x"
    assert names["untested-section"].startswith("ppc64")
