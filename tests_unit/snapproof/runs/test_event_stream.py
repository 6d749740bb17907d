"""Contract: the events of a run come as they happen, whole, each test ends once, and the run ends last."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import MachineryMissing, SetupBroken, UsageError
from harness.status import Status
from snapproof.cli import run as run_module
from snapproof.cli.command import main
from snapproof.report.formats import FORMATS
from snapproof.runs.event_stream import EventStream
from snapproof.runs.matrix import Leg
from tests_functional.lib.profile_row import ProfileRow
from tests_unit.support.report_results import ENVIRONMENT, NASTY, result
from tests_unit.support.scenario_values import make_run, outcome, stack

_TESTS = '''
"""Throwaway tests."""
from avocado import Test
from harness.status import Status
from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.lib.outcome import Outcome

class Silent(Test):
    """Leaves no outcome, as a test that was killed."""
    def test_silent(self):
        """Say nothing."""

class Reporting(SnapshotTest):
    """Lives on."""
    def test_report(self):
        """Say something, and pass."""
        def scenario(run):
            run.say("Working.")
            return Outcome(run.name, Status.PASS, "All is right.", 0.5)
        self.judge(scenario)
'''


def _events(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(event["schema"] == 1 and event["time"] > 1e9 for event in found)
    return found


def _stubbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: Sequence[str] = ("",), lost: bool = False
) -> None:
    """Let the profile be two throwaway tests, or a third that is lost, and its legs need no QEMU."""
    file = tmp_path / "test_throwaway.py"
    file.write_text(_TESTS)
    rows = (
        ProfileRow("t.report", f"{file}:Reporting.test_report", "reason", seconds=60),
        ProfileRow("t.lacks", f"{file}:Reporting.test_report", "reason", needs=("no-such-capability",)),
        ProfileRow("t.silent", f"{file}:Silent.test_silent", "reason", seconds=60),
    )
    known = replace(stack(tmp_path), capabilities=("background-snapshot",))

    def legs(_arguments: object, given: Sequence[ProfileRow], folder: Path, log: Any) -> list[Leg]:
        log("Preparing.")
        made = []
        for label in labels:
            (folder / label).mkdir(exist_ok=True)
            made.append(Leg(label, None, folder / label, known, ENVIRONMENT, tuple(given)))
        return made

    monkeypatch.setattr(run_module, "select", lambda *_: rows if lost else rows[:2])
    monkeypatch.setattr(run_module, "prepare_legs", legs)


def test_stream_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output has events only, standard error the text for people; each test ends exactly once."""
    _stubbed(tmp_path, monkeypatch, lost=True)
    folder = tmp_path / "run"
    assert main(["run", "--results", str(folder), "--events", "-", "--format", "lava"]) == 2
    captured = capsys.readouterr()
    events = _events(captured.out)
    assert "1 passed, 0 failed, 1 skipped, 1 error\n" in captured.err
    assert events[0] | {"time": 0} == {
        "schema": 1, "type": "step", "time": 0, "test": None, "text": "Preparing.",
    }  # fmt: skip
    assert events[1]["type"] == "run-started"
    assert (events[1]["tests"], events[1]["results"]) == (["t.report", "t.lacks", "t.silent"], str(folder))
    told = [
        (event["type"], event.get("text", event.get("status")))
        for event in events
        if event.get("test") == "t.report"
    ]
    assert told == [("test-started", None), ("step", "Working."), ("test-ended", "PASS")]
    ended = {event["test"]: event["status"] for event in events if event["type"] == "test-ended"}
    assert ended == {"t.report": "PASS", "t.silent": "ERROR", "t.lacks": "SKIP"}
    assert [event["type"] for event in events].count("test-ended") == 3
    assert events[-1]["type"] == "run-ended"
    assert events[-1]["counts"] == {"ERROR": 1, "PASS": 1, "SKIP": 1}
    assert (events[-1]["status"], events[-1]["exit_code"], events[-1]["sentence"]) == ("ERROR", 2, "")
    assert "t.report pass\n" in (folder / "lava.txt").read_text()


def test_stream_of_a_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are called as in the results, with the label of their QEMU."""
    _stubbed(tmp_path, monkeypatch, ("d12", "d13"))
    target = tmp_path / "events"
    main(["run", "--results", str(tmp_path / "run"), "--events", str(target)])
    events = _events(target.read_text())
    ended = [event["test"] for event in events if event["type"] == "test-ended"]
    data = json.loads((tmp_path / "run" / "results.json").read_text())
    assert sorted(ended) == sorted(test["name"] for test in data["tests"])
    (started,) = [event for event in events if event["type"] == "run-started"]
    assert sorted(started["tests"]) == sorted(ended)
    assert data["environment"] == {"d12": ENVIRONMENT, "d13": ENVIRONMENT}
    work = data["selection"].pop("work")
    assert data["selection"] == {"profile": "smoke", "filter": "", "repeat": 1, "shard": None}
    main(["run", "--results", str(tmp_path / "part"), "--shard", "2/3"])
    part = json.loads((tmp_path / "part" / "results.json").read_text())
    assert part["selection"]["work"] == work


def test_shard_of_a_matrix_with_one_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is labelled as in the other shards, and the shard is recorded."""
    _stubbed(tmp_path, monkeypatch, ("d13",))
    main(["run", "--results", str(tmp_path / "run"), "--shard", "2/3", "--filter", "t.*"])
    data = json.loads((tmp_path / "run" / "results.json").read_text())
    assert data["environment"] == {"d13": ENVIRONMENT}
    assert data["selection"].pop("work")
    assert data["selection"] == {"profile": "smoke", "filter": "t.*", "repeat": 1, "shard": [2, 3]}
    assert data["command"][data["command"].index("--filter") + 1] == "t.*"


def test_every_filter_of_a_run_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results have all patterns, in a text for readers that know one, and a test is repeated by its name."""
    _stubbed(tmp_path, monkeypatch, ("d13",))
    main(["run", "--results", str(tmp_path / "run"), "--filter", "t.*", "--filter", "u.?"])
    data = json.loads((tmp_path / "run" / "results.json").read_text())
    assert data["selection"].pop("work")
    assert data["selection"] == {
        "profile": "smoke", "filter": "t.* u.?", "filters": ["t.*", "u.?"], "repeat": 1, "shard": None,
    }  # fmt: skip
    words = data["command"]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--filter"] == ["t.*", "u.?"]
    for test in data["tests"]:
        script = (tmp_path / "run" / test["folder"] / "reproduce.sh").read_text()
        assert script.count("--filter") == 1


def test_set_up_that_breaks_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard is told that it is over, and why."""

    def broken(*_words: object) -> None:
        raise MachineryMissing("There is no QEMU.")

    monkeypatch.setattr(run_module, "prepare_legs", broken)
    target = tmp_path / "events"
    assert main(["run", "--results", str(tmp_path / "run"), "--events", str(target)]) == 2
    (event,) = _events(target.read_text())
    assert (event["type"], event["status"], event["exit_code"]) == ("run-ended", "ERROR", 2)
    assert event["sentence"] == "There is no QEMU."


def test_format_that_fails_hides_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verdict is printed, the results are there; exit code and last event say what is missing."""
    _stubbed(tmp_path, monkeypatch)
    lost = replace(FORMATS["lava"], renderer="snapproof.report.no_such_module:text")
    monkeypatch.setitem(FORMATS, "lava", lost)
    words = ["--results", str(tmp_path / "run"), "--events", str(tmp_path / "events"), "--format", "lava"]
    assert main(["run", *words]) == 2
    captured = capsys.readouterr()
    assert "1 passed, 0 failed, 1 skipped\n" in captured.out
    assert "cannot write 'lava': the module 'snapproof.report.no_such_module' is not there." in captured.err
    assert (tmp_path / "run" / "results.json").is_file()
    assert _events((tmp_path / "events").read_text())[-1]["exit_code"] == 2


def test_events_come_at_once(tmp_path: Path) -> None:
    """Through a named pipe, each line is there before the next is written."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines: list[str] = []
    turn = threading.Semaphore(0)

    def read() -> None:
        with pipe.open(encoding="utf-8") as stream:
            for line in stream:
                lines.append(line)
                turn.release()

    reader = threading.Thread(target=read)
    reader.start()
    with EventStream(str(pipe), print) as stream:
        for number in range(3):
            stream.step(f"Step {number}.")
            assert turn.acquire(timeout=30)
            assert json.loads(lines[-1])["text"] == f"Step {number}."
    reader.join(30)
    assert json.loads(lines[-1])["sentence"] == "The run ended too early."


def test_each_test_ends_whatever_ends_the_run(tmp_path: Path) -> None:
    """A dashboard is not left with tests that run for ever."""
    target = tmp_path / "events"
    with pytest.raises(SetupBroken), EventStream(str(target), print) as stream:
        stream.started(["a", "b"], ["snapproof", "run"], tmp_path)
        stream.settle([outcome("a", Status.PASS)])
        raise SetupBroken("The disk is full.")
    *_, first, second, last = map(json.loads, target.read_text().splitlines())
    assert (first["test"], first["status"]) == ("a", "PASS")
    assert (second["test"], second["status"], second["sentence"]) == ("b", "ERROR", "The disk is full.")
    assert last["counts"] == {"PASS": 1, "ERROR": 1}


def test_reader_that_goes_away(tmp_path: Path) -> None:
    """A dashboard that crashes does not end the run; that is told once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.open(encoding="utf-8").close()).start()
    said: list[str] = []
    with EventStream(str(pipe), said.append) as stream:
        for _ in range(1000):
            stream.step("x" * 1000)
        stream.over(result(outcome("a", Status.PASS)))
    assert said == ["The events cannot be written (Broken pipe); the run goes on without them."]


def test_target_that_cannot_be_written(tmp_path: Path) -> None:
    """Found out before anything is booted."""
    with pytest.raises(UsageError, match=r"cannot be written to '.*': Is a directory\.$"):
        EventStream(str(tmp_path), print)


def test_no_target() -> None:
    """Nothing is opened, written or redirected without --events."""
    with EventStream(None, print) as stream, stream.printing:
        stream.step("x")
        stream.settle([outcome("a", Status.PASS)])


def test_hostile_text_is_one_line(tmp_path: Path) -> None:
    """A test's text stays within its event, and is read back unchanged."""
    run = make_run(tmp_path)
    run.begun()
    run.say("Step.")
    told = (tmp_path / "events.jsonl").read_text()
    target = tmp_path / "out"
    with EventStream(str(target), print) as stream:
        for line in told.splitlines():
            stream.test({**json.loads(line), "text": NASTY}, "")
        stream.settle([outcome("b", Status.FAIL, NASTY)])
        stream.over(result(outcome("b", Status.FAIL, NASTY)))
    content = target.read_bytes()
    assert content.isascii()
    events = _events(content.decode())
    assert [event["type"] for event in events] == ["test-started", "step", "test-ended", "run-ended"]
    assert (events[1]["text"], events[2]["sentence"]) == (NASTY, NASTY)
