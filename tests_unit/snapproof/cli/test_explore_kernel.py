"""`snapproof explore --kernel`: what it prints, writes and returns for the events of a runner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snapproof.cli import explore_kernel
from snapproof.cli.command import main
from snapproof.runs import feature_runner

_WHOLE = {"on": "thp", "first": 0, "count": 512}
_STEPS = {
    "version": 1,
    "monitor": {"unpopulated": False, "asynchronous": False, "protect": False},
    "steps": [
        {"kind": "fill", "arguments": {**_WHOLE, "pattern": "zeros", "value": 1}},
        {"kind": "register", "arguments": {**_WHOLE, "mode": 2}},
        {"kind": "protect", "arguments": _WHOLE},
        {"kind": "cold", "arguments": {**_WHOLE, "count": 1}},
    ],
}
_RECORD = {
    "code": "protection-lost",
    "sentence": "Page 1 is not protected.",
    "fields": {"kind": "thp", "page": 1},
}
_HOST = {"event": "host", "kernel": "6.12.43"}


def _finding(known: str = "") -> dict[str, Any]:
    return {
        "event": "finding",
        "signature": "protection-lost thp",
        "record": _RECORD,
        "known": known,
        "seed": "1:7",
        "seconds": 2.5,
        "lists": 8,
        "first": _STEPS,
        "steps": _STEPS,
        "runs": 30,
        "failed": 3,
        "tried": 3,
    }


def _end(lists: int = 9, findings: int = 0, errors: int = 0) -> dict[str, Any]:
    said = {"a limit": errors} if errors else {}
    return {
        "event": "end",
        "line": f"{lists} lists",
        "seed": 1,
        "seconds": 3.0,
        "lists": lists,
        "errors": said,
        "findings": findings,
        "known": {},
        "reached": {},
        "corpus": [_STEPS],
    }


def _runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *events: dict[str, Any]) -> None:
    lines = "".join(f"print({json.dumps(event)!r})\n" for event in events)
    (tmp_path / "fake_runner.py").write_text(
        f"import pathlib, sys\npathlib.Path('words').write_text(' '.join(sys.argv[1:]))\n{lines}"
    )
    monkeypatch.setattr(explore_kernel, "_RUNNER", "fake_runner")
    monkeypatch.setattr(feature_runner, "_ROOT", tmp_path)


def _explore(tmp_path: Path, *words: str) -> int:
    return main(["explore", "--kernel", "--results", str(tmp_path / "results"), *words])


@pytest.mark.parametrize(
    ("events", "code", "said"),
    [
        ((_HOST, _end()), 0, "PASS: nothing was found"),
        ((_HOST, _finding("F15"), _end()), 0, "1. known issue F15: Page 1 is not protected."),
        ((_HOST, _finding(), _end(findings=1)), 1, "FAIL: found 1 cause outside of the baseline."),
        ((_HOST, _end(lists=2, errors=2)), 2, "ERROR: no list has a verdict."),
        ((_HOST, _end(lists=2, errors=1)), 0, "Without a verdict, 1x: a limit"),
        ((_HOST, _end(lists=0)), 3, "No list was run."),
        (({"event": "end", "skipped": "No userfaultfd."},), 4, "SKIP: No userfaultfd."),
    ],
)
def test_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    events: tuple[dict[str, Any], ...],
    code: int,
    said: str,
) -> None:
    """A cause that is not known is 1; known ones are not; nothing that ran is never a pass."""
    _runner(tmp_path, monkeypatch, *events)
    assert _explore(tmp_path) == code
    assert said in capsys.readouterr().out


def test_finding_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its list can be replayed; the test is Python; the program and the draft name it; the corpus is kept."""
    _runner(tmp_path, monkeypatch, _HOST, _finding(), _end(findings=1))
    assert _explore(tmp_path, "--seed", "4", "--runs", "9", "--ksm") == 1
    assert (tmp_path / "words").read_text() == "--json-lines --seed 4 --runs 9 --ksm"
    results = tmp_path / "results"
    folder = results / "findings" / "01-protection-lost"
    assert json.loads((folder / "steps.json").read_text()) == _STEPS
    compile((folder / "test_explored.py").read_text(), "test_explored.py", "exec")
    assert "MADV_COLD" in (folder / "reproduce.c").read_text()
    draft = (folder / "finding.md").read_text()
    assert "## F9xx: Page 1 is not protected." in draft
    assert "6.12.43" in draft
    assert json.loads((results / "corpus.json").read_text())["lists"] == [_STEPS]
    summary = json.loads((results / "explore.json").read_text())
    assert (summary["host"]["kernel"], len(summary["findings"]), summary["lists"]) == ("6.12.43", 1, 9)
    assert "after 8 lists and 2.5 s (seed 1:7), again in 3 of 3 runs, 4 steps" in capsys.readouterr().out


@pytest.mark.parametrize(("found", "code"), [(True, 0), (False, 1)])
def test_self_check(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: bool,
    code: int,
) -> None:
    """Each planted fault has to be found."""
    fault = {
        "event": "fault",
        "fault": "event-dropped",
        "found": found,
        "code": "x",
        "seconds": 1.5,
        "lists": 3,
    }
    _runner(tmp_path, monkeypatch, fault, {"event": "end"})
    assert main(["explore", "--kernel", "--self-check", "--fault", "event-dropped"]) == code
    said = capsys.readouterr().out
    assert ("median 1.5 s, worst 1.5 s" in said) == found
    words = (tmp_path / "words").read_text()
    assert words == "--json-lines --seed 1 --seconds 60.0 --self-check --fault event-dropped"


@pytest.mark.parametrize(
    ("record", "known", "code"),
    [
        ({"code": "", "error": False, "sentence": "", "checked": 3}, "", 0),
        ({"code": "protection-lost", "error": False, "sentence": "x", "checked": 3}, "F15", 0),
        ({"code": "protection-lost", "error": False, "sentence": "x", "checked": 3}, "", 1),
        ({"code": "", "error": True, "sentence": "x", "checked": 3}, "", 2),
    ],
)
def test_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, Any], known: str, code: int
) -> None:
    """A list that fails again is 1, unless it is known."""
    _runner(tmp_path, monkeypatch, {"event": "end", "record": record, "known": known})
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps(_STEPS))
    assert main(["explore", "--kernel", "--replay", str(steps)]) == code
    assert f"--replay {steps}" in (tmp_path / "words").read_text()


def test_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the user's mistake."""
    assert main(["explore", "--kernel", "--replay", str(tmp_path / "none.json")]) == 2
    assert "has no list of steps of memory" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"lists": 3}', '{"lists": [{}]}', '{"version": 1}'])
@pytest.mark.parametrize("option", ["--replay", "--corpus"])
def test_file_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    """It is the user's mistake too, and is told in one sentence."""
    path = tmp_path / "file.json"
    path.write_text(text)
    assert main(["explore", "--kernel", option, str(path)]) == 2
    assert f"'{path}' has no list of steps of memory: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--fault", "last-page-unprotected"], "--self-check"),
        (["--fault", "x", "--self-check"], "There is no fault 'x'; there are "),
        (["--qemu", "debian-13"], "--qemu has no meaning with --kernel"),
        (["--accel", "tcg"], "--accel has no meaning with --kernel"),
        (["--machine", "q35"], "--machine has no meaning with --kernel"),
        (["--qemu-args", "-S"], "--qemu-args has no meaning with --kernel"),
        (["--replay", "x", "--results", "y"], "this writes no results"),
        (["--continue", "x"], "not continued"),
    ],
)
def test_options_that_mean_nothing(capsys: pytest.CaptureFixture[str], given: list[str], words: str) -> None:
    """They are refused, and not passed over."""
    assert main(["explore", "--kernel", *given]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--prepare", "--ksm"])
def test_settings_of_this_host_need_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """Without, lists with less would pass for those that were asked for."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["explore", "--kernel", option]) == 2
    assert "one must be root" in capsys.readouterr().err
