"""Contract: each test of a run has one outcome, also one that was killed, and none of them hangs the run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import more_patience
from harness.status import Status
from snapproof.runs import avocado_job, interruption, spawner
from snapproof.runs.avocado_job import run_plan
from snapproof.runs.side_by_side import Plan
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.profile_row import ProfileRow
from tests_functional.lib.stack_file import save_stack
from tests_unit.support.scenario_values import stack

_COMMON: dict[str, str | int | float] = {
    "seed": 9,
    "repeat": 1,
    "keep": 0,
    "cache": "/c",
    "mirror": "http://m",
}

# As `snapproof run` starts them: some are killed, one reports what it was given.
_THROWAWAY = '''
"""Throwaway tests."""
import os, signal, subprocess, time
from pathlib import Path
from avocado import Test
from harness.status import Status
from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.lib.outcome import Outcome

class Vanishing(Test):
    """Gone without a word, its snapshot left behind."""
    def test_vanish(self):
        """Kill itself."""
        folder = Path(self.params.get("folder"))
        folder.mkdir(parents=True)
        (folder / "vmstate").write_text("heavy")
        (folder / "test.log").write_text("said so far")
        os.kill(os.getpid(), signal.SIGKILL)
    def test_runner(self):
        """Kill Avocado's runner, and live on as long as one may."""
        self.params.get("folder")
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    def test_sleep(self):
        """Take longer than one may."""
        time.sleep(60)

class Stopping(Test):
    """The command is asked to stop while it runs."""
    def test_stop(self):
        """Ask, and wait to be ended."""
        folder = Path(self.params.get("folder"))
        folder.mkdir(parents=True)
        figures = {"01/pages_in_stream": 5}
        Outcome("t.stop", Status.PASS, "Two are right.", figures=figures).save_so_far(folder)
        os.kill(int(self.params.get("parent_pid")), signal.SIGTERM)
        time.sleep(0.4)
        os.kill(int(self.params.get("parent_pid")), signal.SIGTERM)
        time.sleep(60)
    def test_hang(self):
        """Stop the process that forks runners, and ask once the next test waits for it."""
        server = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(server), signal.SIGSTOP)
        command = f"sleep 3; kill -TERM {self.params.get('parent_pid')}"
        subprocess.Popen(["sh", "-c", command], start_new_session=True)

class Reporting(SnapshotTest):
    """Lives on."""
    def test_report(self):
        """Say what it was given."""
        def scenario(run):
            given = run.provisioning
            said = f"{run.pattern} {run.seed} {run.stack.vcpus} {given.cache.folder} {given.mirror}"
            if os.getsid(0) == os.getsid(int(self.params.get("parent_pid"))):
                said += ", and each Ctrl-C of the terminal"
            return Outcome(run.name, Status.PASS, said)
        self.judge(scenario)
    def test_report_more(self):
        """Its name begins like that of another test."""
'''


def _placed(tmp_path: Path) -> tuple[Path, Path]:
    """Return a file with the throwaway tests, and a results folder for them."""
    file, folder = tmp_path / "test_throwaway.py", tmp_path / "results"
    file.write_text(_THROWAWAY)
    folder.mkdir()
    save_stack(stack(tmp_path), {"host_kernel": "6.18"}, folder)
    return file, folder


def test_name_that_begins_another(tmp_path: Path) -> None:
    """`test_report` is one test although there is a `test_report_more`."""
    file, _ = _placed(tmp_path)
    row = ProfileRow("a", f"{file}:Reporting.test_report", "reason")
    (runnable,) = avocado_job._resolve(row, {"name": "a"})
    assert str(getattr(runnable, "uri", "")).endswith(":Reporting.test_report")


def test_killed_tests_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed test, or one whose runner is killed, ends as ERROR at once, and takes no other along."""
    monkeypatch.setattr(spawner, "_ZOMBIE_SECONDS", 1.0)
    monkeypatch.setattr(avocado_job, "_TASK_GRACE_SECONDS", 10)
    file, folder = _placed(tmp_path)
    rows = [
        ProfileRow("t.vanish", f"{file}:Vanishing.test_vanish", "reason", seconds=600),
        ProfileRow("t.runner", f"{file}:Vanishing.test_runner", "reason", seconds=600),
        ProfileRow("t.report", f"{file}:Reporting.test_report", "reason", {"vcpus": 2}, seconds=600),
    ]
    plan = Plan(together=tuple(rows[:2]), alone=tuple(rows[2:]), workers=2)
    outcomes = list(run_plan(plan, _COMMON, folder).values())
    killed = "was killed, as the kernel does when memory runs out; the kernel's log says more (see 'dmesg')."
    assert [(found.name, found.status, found.sentence) for found in outcomes] == [
        ("t.vanish", Status.ERROR, f"The test did not report: its process {killed}"),
        ("t.runner", Status.ERROR, f"The test did not report: the process that runs it {killed}"),
        ("t.report", Status.PASS, "random 9 2 /c http://m"),
    ]
    assert [found.folder for found in outcomes] == ["tests/t.vanish", "tests/t.runner", "tests/t.report"]
    # Its snapshot is not kept.
    assert [path.name for path in (folder / "tests/t.vanish").iterdir()] == ["test.log"]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [(event["type"], event["test"]) for event in events] == [
        ("test-started", "t.report"),
        ("test-ended", "t.report"),
    ]
    assert (events[1]["status"], events[1]["sentence"]) == ("PASS", "random 9 2 /c http://m")


def test_test_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test is ended at its time-out; the sentence names the time that has passed beside the time-out."""
    monkeypatch.setattr(avocado_job, "_TASK_GRACE_SECONDS", 2)
    file, folder = _placed(tmp_path)
    row = ProfileRow("t.sleep", f"{file}:Vanishing.test_sleep", "reason", seconds=1)
    (outcome,) = run_plan(Plan((row,), (), 1), _COMMON, folder).values()
    sentence, times = re.subn(r"after \d+ s", "after N s", outcome.sentence)
    assert (outcome.status, times) == (Status.ERROR, 1)
    assert sentence.startswith(
        "The test did not report; it had 1 s, and the run of the tests ended after N s."
    )


def test_time_out_of_a_test_grows_with_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may take the factor's time: one that sleeps beyond the usual time-out is waited for."""
    monkeypatch.setattr(avocado_job, "_TASK_GRACE_SECONDS", 0)
    file, folder = _placed(tmp_path)
    row = ProfileRow("t.sleep", f"{file}:Vanishing.test_sleep", "reason", seconds=1)
    with more_patience(4):
        (outcome,) = run_plan(Plan((row,), (), 1), _COMMON, folder).values()
    found = re.search(r"it had 4 s, and the run of the tests ended after (\d+) s", outcome.sentence)
    assert found is not None, outcome.sentence
    assert int(found[1]) >= 4


_FOREIGN = """
import json, sys
from pathlib import Path
from snapproof.runs.avocado_places import own_settings
from snapproof.runs.side_by_side import Plan
from tests_functional.lib.profile_row import ProfileRow
folder = Path(sys.argv[1])
row = ProfileRow("t.report", sys.argv[2], "reason", {"vcpus": 2}, seconds=60)
with own_settings(folder / "avocado"):
    from snapproof.runs.avocado_job import run_plan
    found = run_plan(Plan((row,), (), 1), json.loads(sys.argv[3]), folder)
print(json.dumps([found["t.report"].status.value, found["t.report"].sentence]))
"""


@pytest.mark.parametrize(
    ("settings", "temporary"),
    [("HOME", "t" * 80), ("VIRTUAL_ENV", "a:1")],
    ids=["user's settings, long TMPDIR", "venv's settings, TMPDIR with a colon"],
)
def test_environment_steers_no_run(tmp_path: Path, settings: str, temporary: str) -> None:
    """A run reports with any spawner in avocado.conf, and with any path of TMPDIR.

    Settings and TMPDIR are read by different parts, and each alone ends the run; so one run has one of each.
    """
    file, folder = _placed(tmp_path)
    home = tmp_path / "home"
    place = home / ".config" / "avocado"
    place.mkdir(parents=True)
    settings_file = "[run]\nspawner = podman\n[plugins]\ndisable = ['spawner.process']\n"
    (place / "avocado.conf").write_text(settings_file)
    (tmp_path / temporary).mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"TMPDIR": str(tmp_path / temporary), settings: str(home)}
    words = [sys.executable, "-c", _FOREIGN, str(folder), f"{file}:Reporting.test_report"]
    words.append(json.dumps(_COMMON))
    run = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=100, check=True)
    assert json.loads(run.stdout.splitlines()[-1]) == ["PASS", "random 9 2 /c http://m"]


@contextmanager
def _listening() -> Iterator[None]:
    """Let signals interrupt what runs in this block, as in a command."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    interruption.listen()
    try:
        yield
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
        interruption._asked = False


def test_interrupted_while_no_test_can_be_started(tmp_path: Path) -> None:
    """SIGTERM ends a run also while the process that starts tests does not answer, and that process too."""
    file, folder = _placed(tmp_path)
    hang = ProfileRow("t.hang", f"{file}:Stopping.test_hang", "reason", seconds=60)
    report = ProfileRow("t.report", f"{file}:Reporting.test_report", "reason", seconds=60)
    with _listening():
        found = run_plan(Plan((hang, report), (), 1), _COMMON, folder)
    sentence = "The run was interrupted before this test had reported."
    said = [(outcome.status, outcome.sentence) for outcome in found.values()]
    assert said == [(Status.ERROR, sentence)] * 2


def test_interrupted_run_begins_no_more(tmp_path: Path) -> None:
    """After SIGTERM, and one more, the suite that runs is ended and the next not begun; each test says so."""
    file, folder = _placed(tmp_path)
    stop = ProfileRow("t.stop", f"{file}:Stopping.test_stop", "reason", seconds=60)
    report = ProfileRow("t.report", f"{file}:Reporting.test_report", "reason", seconds=60)
    with _listening():
        found = run_plan(Plan((stop,), (report,), 1), _COMMON, folder)
    sentence = "The run was interrupted before this test had reported."
    assert {o.name: (o.status, o.sentence, o.figures) for o in found.values()} == {
        "t.stop": (Status.ERROR, f"{sentence} Until then: Two are right.", {"01/pages_in_stream": 5}),
        "t.report": (Status.ERROR, sentence, {}),
    }
    assert not (folder / "tests/t.report").exists()


def test_wrong_snapshot_of_a_test_that_was_ended(tmp_path: Path) -> None:
    """What was found wrong stays wrong when the test is ended after that."""
    place = tmp_path / "tests/t.stop"
    place.mkdir(parents=True)
    Outcome("t.stop", Status.FAIL, "Page 7 is newer.").save_so_far(place)
    found = avocado_job._collect(ProfileRow("t.stop", "t", "why"), tmp_path, 3.0)
    assert found.status is Status.FAIL
    assert found.sentence.startswith("Page 7 is newer. (The test did not report; it had 300 s, ")


def test_snapshots_of_a_test_that_was_ended_are_put_together(tmp_path: Path) -> None:
    """Each snapshot leaves a line of its own; the last may be cut off, if the test was killed as it wrote."""
    place = tmp_path / "tests/t.stop"
    place.mkdir(parents=True)
    for number in (1, 2):
        Outcome("t.stop", Status.PASS, "It is right.", figures={f"{number:02}-live/a": number}).save_so_far(
            place
        )
    with (place / "so-far.jsonl").open("a") as file:
        file.write('{"name": "t.st')
    found = avocado_job._collect(ProfileRow("t.stop", "t", "why"), tmp_path, 3.0)
    assert (found.status, found.folder) == (Status.ERROR, "tests/t.stop")
    assert found.figures == {"01-live/a": 1, "02-live/a": 2}
    assert found.sentence.endswith(" Until then: It is right.")


def test_outcome_replaces_what_was_so_far(tmp_path: Path) -> None:
    """A test that has reported leaves no second outcome behind."""
    Outcome("a", Status.PASS, "One is right.").save_so_far(tmp_path)
    Outcome("a", Status.PASS, "Two are right.").save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]
