"""Contract: each list becomes a script that Python takes, and each finding a folder."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

from harness.codes import Code
from snapproof.explore import script_trial
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
        text.index("begin(golden=True, early=False, by_command=False)")
        < text.index("'balloon'")
        < text.index("sink.speed = 'closed'")
    )
    assert "finish(sink, ['completed', 'failed'])" in text


def test_steps_that_do_not_apply_are_left_out() -> None:
    """Outside of a save there is nothing to cancel, and nothing that ends."""
    text = reproducer_text(StepList(GuestChoice(), (Step("cancel"), Step("finish"))), "A sentence.")
    assert not any(line == 'ask("migrate_cancel")' for line in text.splitlines())
    assert "\nfinish(sink" not in text


def test_a_last_snapshot_is_taken_after_all_steps() -> None:
    """A failure may show in it alone, as that of F5 does; it goes to a command, as the explored one."""
    text = reproducer_text(StepList(GuestChoice(), (Step("begin", {"transport": "exec"}),)), "A sentence.")
    lines = text.splitlines()
    assert lines.index("last_snapshot()") > lines.index("finish(sink, ['completed'])")
    assert lines.index("last_snapshot()") < lines.index('ask("quit")')
    assert "sink = begin(golden=False, early=False, by_command=True)" in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "Usage: "), (["/nonexistent"], "'/nonexistent' is no program"), (["a", "b"], "Usage: ")],
)
def test_wrong_usage_is_a_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    """It is none of the script's results, and no traceback."""
    script = tmp_path / "reproduce.py"
    script.write_text(reproducer_text(StepList(GuestChoice(), ()), "A sentence."))
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


# A QEMU that answers what it is asked; its saves end as told, and it keeps what it was asked.
_QEMU = """#!{python}
import json, socket, sys
words = sys.argv
fd = next(int(w.split(",")[1].split("=")[1]) for w in words if w.startswith("socket,fd="))
monitor = socket.socket(fileno=fd).makefile("rw")
def say(it):
    print(json.dumps(it), file=monitor, flush=True)
say({{"QMP": {{}}}})
saves = 0
for line in monitor:
    command = json.loads(line)["execute"]
    answer = {{}}
    if command == "migrate":
        saves += 1
    if command == "query-migrate":
        answer = {{"status": "failed" if saves >= {fails} else "completed", "error-desc": "x"}}
    if command == "query-status":
        answer = {{"status": "running"}}
    if command in ("query-migrate-capabilities", "query-migrate-parameters"):
        answer = [{{"x": saves if {changes} else 0}}]
    say({{"return": answer}})
    if command == "quit":
        break
"""


@pytest.mark.parametrize(
    ("fails", "changes", "code"), [(1, False, 1), (2, False, 1), (3, False, 0), (2, True, 0)]
)
def test_a_failure_of_the_last_snapshot_shows(tmp_path: Path, fails: int, changes: bool, code: int) -> None:
    """The second save is the last one: it is left out where migration settings have changed."""
    qemu = tmp_path / "qemu"
    qemu.write_text(_QEMU.format(python=sys.executable, fails=fails, changes=changes))
    qemu.chmod(0o755)
    script = tmp_path / "reproduce.py"
    script.write_text(reproducer_text(StepList(GuestChoice(), (Step("snapshot", {"flow": "LIVE"}),)), "A."))
    done = subprocess.run([sys.executable, script, qemu], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit(1)", "was tried once, and shows a failure"),
        ("raise SystemExit(0)", "was tried 3 times, and does not show it"),
        ("raise SystemExit(2)", "cannot do it"),
        ("raise SystemExit(3)", "did not work, and ended with 3"),
        ("import time; time.sleep(60)", "did not end within 1 s"),
    ],
)
def test_a_script_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str) -> None:
    """What it did is said as it is, and its output kept."""
    monkeypatch.setattr(script_trial, "_SECONDS", 1.0 if "sleep" in program else 60.0)
    (tmp_path / "reproduce.py").write_text(f"print('told', flush=True)\n{program}\n")
    assert said in script_trial.try_script(tmp_path, Path("/qemu"))
    if "sleep" not in program:
        tries = 3 if "(0)" in program else 1
        assert (tmp_path / "reproduce.log").read_text() == "told\n" * tries


def test_a_script_is_tried_until_it_shows_a_failure(tmp_path: Path) -> None:
    """A failure may depend on QEMU's threads."""
    place = str(tmp_path / "tried")
    program = f"import os\nseen = os.path.exists({place!r})\nopen({place!r}, 'w').close()\n"
    program += "raise SystemExit(int(seen))\n"
    (tmp_path / "reproduce.py").write_text(program)
    said = script_trial.try_script(tmp_path, Path("/qemu"))
    assert "was tried 2 times, and shows a failure" in said


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
    assert "`reproduce.py QEMU`, which was not tried." in draft
    finding.script = "`reproduce.py QEMU` was tried once, and does not show it."
    write_finding(finding, tmp_path / "one", "10.0.13", "/usr/bin/qemu")
    draft = (tmp_path / "one" / "finding.md").read_text()
    assert "With QEMU alone: `reproduce.py QEMU` was tried once, and does not show it." in draft
    written = json.loads((tmp_path / "one" / FINDING_FILE).read_text())["violations"]
    assert written == [
        {"check": "explore/qemu", "code": "qemu.ended", "sentence": 'QEMU """ended""".', "fields": {}}
    ]
    assert finding.to_json()["stable"] == "3 of 3"
