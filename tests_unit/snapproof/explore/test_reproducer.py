"""Contract: each list becomes a script that Python takes, and each finding a folder."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

from hypothesis import given, settings

from harness.codes import Code
from snapproof.explore.findings import FINDING_FILE, STEPS_FILE, Finding, signature, write_finding
from snapproof.explore.reproducer import LINES, reproducer_text
from tests_functional.explore.executor import Record
from tests_functional.explore.menu import KINDS
from tests_functional.explore.steps import GuestChoice, Step, StepList
from tests_functional.kernel.explore.ddmin import Reduced
from tests_unit.tests_functional.explore.test_steps import GUESTS
from validators.checks import Problem, judged

_STEPS = (
    Step("begin", {"transport": "unix", "golden": True}),
    Step("qmp", {"command": "balloon", "arguments": {"value": 1, "text": 'it\'s "a"', "none": None}}),
    Step("sink", {"speed": "closed"}),
    Step("freeze", {"seconds": 0.1}),
    Step("finish"),
    Step("snapshot", {"flow": "STOP_AND_SAVE"}),
    Step("snapshot", {"flow": "LIVE"}),
)


def test_every_kind_of_step_has_its_lines() -> None:
    """A kind without lines would be missing from scripts without a word."""
    assert set(LINES) == set(KINDS)


@settings(deadline=None)
@given(GUESTS)
def test_scripts_are_python(guest: GuestChoice) -> None:
    """A script for any guest can be compiled, and has a line break in no comment."""
    text = reproducer_text(StepList(guest, _STEPS), "A sentence\nof two lines.")
    ast.parse(text)
    assert "# A sentence of two lines." in text
    assert (
        text.index("begin(golden=True, early=False)")
        < text.index("'balloon'")
        < text.index("sink.speed = 'closed'")
    )
    assert "finish(sink, ['completed', 'failed'])" in text


def test_steps_that_do_not_apply_are_left_out() -> None:
    """Outside of a save there is nothing to cancel, and nothing that ends."""
    text = reproducer_text(StepList(GuestChoice(), (Step("cancel"), Step("finish"))), "A sentence.")
    assert not any(line == 'ask("migrate_cancel")' for line in text.splitlines())
    assert "\nfinish(sink" not in text


def test_a_finding_is_written_as_a_whole(tmp_path: Path) -> None:
    """The folder has the list, a test, a reproducer that can be run, the draft and the violations."""
    steps = StepList(GuestChoice(), _STEPS)
    check = judged("explore/qemu", "QEMU lives.", [Problem(Code.QEMU_ENDED, 'QEMU """ended""".')])
    record = Record(steps, (check,))
    finding = Finding(signature(record.violations), record.steps, record.violations, Reduced(steps, 9, 3, 3))
    write_finding(finding, tmp_path / "one", "10.0.13", "/usr/bin/qemu")
    assert StepList.from_json(json.loads((tmp_path / "one" / STEPS_FILE).read_text())) == steps
    test = (tmp_path / "one" / "test_explored.py").read_text()
    compiled = ast.parse(test)
    assert any(isinstance(node, ast.FunctionDef) and node.name == "scenario" for node in compiled.body)
    assert os.access(tmp_path / "one" / "reproduce.py", os.X_OK)
    draft = (tmp_path / "one" / "finding.md").read_text()
    assert "in 3 of 3 runs" in draft
    assert "7. `snapshot(flow=" in draft
    assert "qemu.ended" in draft
    written = json.loads((tmp_path / "one" / FINDING_FILE).read_text())["violations"]
    assert written == [
        {"check": "explore/qemu", "code": "qemu.ended", "sentence": 'QEMU """ended""".', "fields": {}}
    ]
    assert finding.to_json()["stable"] == "3 of 3"
