"""Contract: a results folder is refused or written whole, and its counts and exit code agree."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from harness.errors import SetupBroken, UsageError
from harness.status import Status
from snapproof.report.run_result import RunResult
from snapproof.runs.results_folder import (
    make_results_folder,
    own_results_folder,
    write_reproducer,
    write_results,
)
from tests_unit.support.scenario_values import outcome


def _run(*statuses: Status) -> RunResult:
    outcomes = [outcome(f"t.{number}", status) for number, status in enumerate(statuses)]
    return RunResult(outcomes, "2026-01-02T03:04:05+00:00", 9.0, ["snapproof", "run"], {"qemu": "10.0"})


def _fill_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the disk be full half-way through the file whose name holds `name`."""
    real = Path.write_text

    def full(path: Path, text: str, *rest: str | None, **more: str | None) -> int:
        if name in path.name:
            real(path, text[: len(text) // 2], *rest, **more)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, text, *rest, **more)

    monkeypatch.setattr(Path, "write_text", full)


def test_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    """A new folder comes back as an absolute path, empty; an empty one that exists will do."""
    folder = make_results_folder(tmp_path / "a" / "b")
    assert folder.is_absolute()
    assert list(folder.iterdir()) == []
    assert make_results_folder(folder) == folder


def test_commands_of_one_second_have_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands without `--results` never share a folder, or one takes the outcomes of the other."""
    monkeypatch.chdir(tmp_path)
    folders = [own_results_folder(None, "bench-") for _ in range(20)]
    assert len(set(folders)) == 20
    assert all(folder.is_dir() and folder.parent == tmp_path / "results" for folder in folders)
    assert all(folder.name.startswith("bench-") for folder in folders)


def test_folder_that_is_named(tmp_path: Path) -> None:
    """`--results` is taken as it is, also if it is an empty folder."""
    assert own_results_folder(tmp_path) == tmp_path
    assert own_results_folder(tmp_path / "a") == tmp_path / "a"


def test_no_place_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, or a link to nowhere, in place of `results` is one sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").touch()
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        own_results_folder(None)
    (tmp_path / "results").unlink()
    (tmp_path / "results").symlink_to("nowhere")
    with pytest.raises(UsageError, match="cannot be written: File exists"):
        own_results_folder(None)


def test_file_in_the_way(tmp_path: Path) -> None:
    """A file where the folder or its parent should be is one sentence."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"The results folder '.*' cannot be written: .*\.$"):
            make_results_folder(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere, whatever the mode")
def test_unwritable_folder(tmp_path: Path) -> None:
    """A folder without write permission is found out at the start, not at the end of the run."""
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(UsageError, match="cannot be written: Permission denied"):
            make_results_folder(tmp_path)
    finally:
        tmp_path.chmod(0o755)


def test_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where even root cannot write."""

    def refuse(_path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UsageError, match="cannot be written: Read-only file system"):
        make_results_folder(tmp_path)


@pytest.mark.parametrize("leftover", ["results.json", "tests"])
def test_folder_of_another_run_is_refused(tmp_path: Path, leftover: str) -> None:
    """A new run is not mixed with a finished or an interrupted one."""
    (tmp_path / leftover).mkdir()
    with pytest.raises(UsageError, match="already holds the results of a run"):
        make_results_folder(tmp_path)


def test_results_agree(tmp_path: Path) -> None:
    """results.json carries schema, worst status, exit code, counts by severity, and every test."""
    result = _run(Status.PASS, Status.SKIP, Status.FAIL, Status.PASS)
    write_results(tmp_path, result)
    data = json.loads((tmp_path / "results.json").read_text())
    assert (data["schema"], data["status"], data["exit_code"]) == (1, "FAIL", 1)
    assert list(data["counts"].items()) == [("FAIL", 1), ("PASS", 2), ("SKIP", 1)]
    assert [test["name"] for test in data["tests"]] == ["t.0", "t.1", "t.2", "t.3"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["junit.xml", "report.html", "results.json", "results.ktap"]


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ((), 3),
        ((Status.SKIP, Status.SKIP), 4),
        ((Status.SKIP, Status.PASS), 0),
        ((Status.XFAIL, Status.DONE), 0),
        ((Status.PASS, Status.MISS), 2),
        ((Status.ERROR, Status.PASS), 2),
        ((Status.ERROR, Status.FAIL), 1),
    ],
)
def test_exit_code_is_that_of_the_worst(statuses: tuple[Status, ...], code: int) -> None:
    """The exit code is not 0 if nothing ran or all was skipped; a failure outweighs an error."""
    result = _run(*statuses)
    assert result.exit_code == code
    assert sum(result.counts().values()) == len(statuses)


@pytest.mark.parametrize("name", ["results.json", "junit.xml", "results.ktap"])
def test_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A disk that fills up in the middle of a file: one sentence, no part of it, no draft."""
    _fill_disk(monkeypatch, name)
    with pytest.raises(SetupBroken, match=r"could not be written to .*: No space left on device\.$"):
        write_results(tmp_path, _run(Status.PASS))
    left = {path.name for path in tmp_path.iterdir()}
    assert "results.json" not in left
    assert left <= {"junit.xml", "results.ktap"} - {name}


def test_disk_that_is_full_for_the_page_keeps_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page comes last: what CI systems read is whole, and the missing page is not passed over."""
    _fill_disk(monkeypatch, "report.html")
    with pytest.raises(SetupBroken, match=r"could not be written to .*: No space left on device\.$"):
        write_results(tmp_path, _run(Status.PASS))
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "PASS"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["junit.xml", "results.json", "results.ktap"]


def test_page_that_cannot_be_made_changes_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A defect of the page: results and exit code as they were, and two places that say so."""

    def broken(*_: object) -> str:
        raise KeyError("<b>planted</b>")

    monkeypatch.setattr("snapproof.report.html.run_page", broken)
    result = _run(Status.PASS)
    write_results(tmp_path, result)
    assert result.exit_code == 0
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "PASS"
    said = capsys.readouterr().err
    assert said.startswith(
        "snapproof: report.html could not be made, which is snapproof's own fault: KeyError"
    )
    assert said.count("\n") == 1
    page = (tmp_path / "report.html").read_text()
    assert "This page could not be made" in page
    assert "KeyError: &#39;&lt;b&gt;planted&lt;/b&gt;&#39;" in page


def test_undecodable_text_is_written(tmp_path: Path) -> None:
    """A message with bytes that are not UTF-8, such as a path, costs no result."""
    broken = outcome("a", Status.ERROR, "No '\udcff'.", folder="tests/\udcff")
    write_results(tmp_path, RunResult([broken], "now", 1, ["x"], {"qemu": "\udcff"}))
    assert "# No '?'." in (tmp_path / "results.ktap").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "ERROR"


def test_reproducer_runs_exactly_its_command(tmp_path: Path) -> None:
    """It is executable, quotes what a shell would split or expand, and runs no word of its comment."""
    words = ["printf", "%s|", "two words", "$HOME", "it's", "*", "--seed", "3"]
    write_reproducer(tmp_path, words, "It failed:\ntouch forged\n`touch forged`")
    script = tmp_path / "reproduce.sh"
    assert os.access(script, os.X_OK)
    done = subprocess.run([script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "two words|$HOME|it's|*|--seed|3|"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reproduce.sh"]


def test_reproducer_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk gives one sentence about reproduce.sh."""
    _fill_disk(monkeypatch, "reproduce.sh")
    with pytest.raises(SetupBroken, match=r"reproduce\.sh' could not be written: No space left on device"):
        write_reproducer(tmp_path, ["true"], "It failed.")
