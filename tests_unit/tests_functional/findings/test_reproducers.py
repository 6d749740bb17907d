"""Contract: a reproducer that says other than the baseline never looks as if all were well."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, NotApplicable, SetupBroken
from harness.process import session_members
from harness.status import Status
from tests_functional.findings import reproducers
from tests_functional.findings.reproducers import judge_reproducer, reproduced
from tests_functional.lib.known_issues import KnownIssue, load_known_issues
from tests_functional.lib.symptoms import Symptom
from tests_unit.support.scenario_values import make_run

_ISSUE = KnownIssue(
    id="F1",
    title="it loses a page",
    checks=("repetition/*",),
    codes=(Symptom(Code.GOLDEN_DIFFERS),),
    seen=("10.0.",),
    absent=("7.2.",),
    sporadic=False,
    reproduce="f1.sh QEMU",
    upstream="",
)


@pytest.mark.parametrize(
    ("version", "codes", "by_chance", "status"),
    [
        ("10.0.13", (1, 1), False, Status.XFAIL),
        ("10.0.13", (1, 0), False, Status.FAIL),
        ("10.0.13", (1, 0), True, Status.XFAIL),
        ("10.0.13", (0, 0), False, Status.XPASS),
        ("10.0.13", (0, 0), True, Status.PASS),
        ("10.0.13", (2, 2), False, Status.XPASS),
        ("7.2.22", (0, 0), False, Status.PASS),
        ("7.2.22", (2, 2), False, Status.PASS),
        ("7.2.22", (0, 1), True, Status.FAIL),
        ("9.9.0", (1, 1), False, Status.XFAIL),
        ("9.9.0", (0, 0), False, Status.PASS),
        ("9.9.0", (2, 2), False, Status.SKIP),
    ],
)
def test_verdicts(version: str, codes: tuple[int, int], by_chance: bool, status: Status) -> None:
    """Shown where it was seen is XFAIL; where it is said to be absent, or only sometimes, is FAIL."""
    found = judge_reproducer(replace(_ISSUE, by_chance=by_chance), version, codes, "The last line.")
    assert found.status is status
    assert found.name == "findings/F1"
    assert bool(found.violations) == (status in (Status.FAIL, Status.XFAIL))
    assert (found.known_issue == "F1") == (status in (Status.XFAIL, Status.XPASS))


def _with_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, parameters: str = "QEMU"
) -> None:
    (tmp_path / "f1.sh").write_text(text)
    issue = replace(_ISSUE, reproduce=f"f1.sh {parameters}")
    monkeypatch.setattr(reproducers, "_HOME", tmp_path)
    monkeypatch.setattr(reproducers, "load_known_issues", lambda: (issue,))


def test_script_gets_the_qemus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs twice, with this run's QEMU and the newest of the others; its words are kept."""
    _with_script(tmp_path, monkeypatch, 'echo "$1 $2"; exit 0', "OLD-QEMU NEW-QEMU")
    value = make_run(tmp_path)
    outcome = reproduced("F1", {"old": Path("/q/old"), "new": Path("/q/new")})(value)
    assert outcome.status is Status.PASS
    for number in (1, 2):
        log = (value.folder / f"reproducer-{number}.log").read_text()
        assert log == f"{value.stack.executable} /q/new\n"


def test_second_qemu_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reproducer that takes two QEMUs is skipped where the run has one, with the reason."""
    _with_script(tmp_path, monkeypatch, "exit 1", "OLD-QEMU NEW-QEMU")
    with pytest.raises(NotApplicable, match="needs a newer QEMU"):
        reproduced("F1", {})(make_run(tmp_path))


@pytest.mark.parametrize("text", ["exit 3", "exit 127", "kill -9 $$"])
def test_broken_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A script that breaks says nothing about QEMU."""
    _with_script(tmp_path, monkeypatch, text)
    with pytest.raises(SetupBroken, match="broke with exit code"):
        reproduced("F1", {})(make_run(tmp_path))


def test_script_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended in time, and nothing of it is left."""
    _with_script(tmp_path, monkeypatch, "sleep 1000")
    monkeypatch.setattr(reproducers, "_SECONDS", 0.5)
    with pytest.raises(DeadlineExpired):
        reproduced("F1", {})(make_run(tmp_path))


def test_every_issue_has_its_script() -> None:
    """Each script that the baseline names exists, and its head says what its exit codes mean."""
    for issue in load_known_issues():
        if not issue.reproduce:
            assert issue.subject == "libvirt"
            continue
        script = reproducers._HOME / issue.reproduce.split()[0]
        assert f"# {issue.id}:" in script.read_text(), issue.id
        assert "# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 " in script.read_text()


def _broken_qemus(tmp_path: Path) -> list[Path]:
    """Return a QEMU that ends at once, and one that starts and prints nothing."""
    silent = tmp_path / "silent"
    silent.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\nexec sleep 20\n')
    silent.chmod(0o755)
    return [Path("/bin/false"), silent]


def test_broken_qemu_is_no_defect(tmp_path: Path) -> None:
    """A QEMU that does not start, or hangs from the start, has neither shown the defect nor its absence."""
    qemus = _broken_qemus(tmp_path)
    # Those that tell a hang from silence; the others take as long as the silent one lives.
    patient = ("F5", "F6", "F7", "F9", "F10", "F11")
    runs = {
        (issue.id, qemu.name): subprocess.Popen(
            reproducers._command(issue, qemu, {"newer": qemu}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for issue in load_known_issues()
        for qemu in qemus
        if issue.reproduce.endswith("QEMU") and (qemu.name == "false" or issue.id in patient)
    }
    codes = {name: process.wait(60) for name, process in runs.items()}
    assert codes == dict.fromkeys(runs, 3)
    # Who was killed is not gone at once.
    pids = [process.pid for process in runs.values()]
    Deadline(20).wait_for(
        lambda: not any(map(session_members, pids)), "The end of all that the scripts began"
    )
