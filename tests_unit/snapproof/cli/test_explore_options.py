"""Contract: an option of `snapproof explore` that would mean nothing is refused before anything is made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import UsageError
from snapproof.cli.command import main, make_parser
from snapproof.cli.explore_options import require_fit
from snapproof.runs.defaults import HOST_ACCELERATORS


def _refused(*words: str) -> str:
    try:
        require_fit(make_parser(["explore"]).parse_args(["explore", *words]))
    except UsageError as error:
        return error.sentence
    return ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "vm:x"], "--host goes with --kernel"),
        (["--ssh-key", "x"], "--ssh-key goes with --kernel"),
        (["--ssh-host-key", "x"], "--ssh-host-key goes with --kernel"),
        (["--host-accel", HOST_ACCELERATORS[1]], "--host-accel goes with --kernel"),
        (["--prepare"], "--prepare goes with --kernel"),
        (["--ksm"], "--ksm goes with --kernel"),
        (["--fault", "hang"], "--fault names what --self-check plants"),
        (["--self-check", "--runs", "3"], "--runs does not go with --self-check"),
        (["--self-check", "--corpus", "x"], "--corpus does not go with --self-check"),
        (["--self-check", "--jobs", "2"], "--jobs does not go with --self-check"),
        (["--self-check", "--replay", "x"], "--replay does not go with --self-check"),
        (["--replay", "x", "--seconds", "3"], "--seconds does not go with --replay"),
        (["--replay", "x", "--jobs", "2"], "--jobs does not go with --replay"),
        (["--replay", "x", "--continue", "y"], "--continue does not go with --replay"),
        (["--continue", "x", "--results", "y"], "--results does not go with --continue"),
        (["--continue", "x", "--corpus", "y"], "--corpus does not go with --continue"),
        *(
            (["--kernel", option, value], f"{option} has no meaning with --kernel")
            for option, value in (
                ("--qemu", "x"), ("--accel", "kvm"), ("--guest", "x"), ("--arch", "x"), ("--machine", "x"),
                ("--cpu", "x"), ("--firmware", "x"), ("--firmware-vars", "x"), ("--qemu-args", "x"),
            )
        ),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(words: list[str], said: str) -> None:
    """The sentence names the option and what it goes with."""
    assert said in _refused(*words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--qemu", "debian-13", "--accel", "tcg", "--jobs", "2", "--seconds", "9", "--runs", "4"],
        ["--kernel", "--host", "vm:x", "--ksm", "--runs", "3", "--corpus", "x"],
        ["--kernel", "--self-check", "--fault", "x", "--runs", "3"],
        ["--self-check", "--fault", "hang", "--seconds", "9"],
        ["--replay", "x", "--results", "y"],
        ["--continue", "x", "--seconds", "9", "--jobs", "2"],
    ],
)
def test_options_that_go_together(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not refused."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    assert _refused(*words) == ""


@pytest.mark.parametrize(("jobs", "refused"), [(4, False), (5, True), (100, True)])
def test_jobs_are_bounded(monkeypatch: pytest.MonkeyPatch, jobs: int, refused: bool) -> None:
    """More than two for each processor would give no verdict."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    assert ("give at most 4" in _refused("--jobs", str(jobs))) == refused


@pytest.mark.parametrize(
    "words",
    [
        ["--self-check", "--fault", "nonsense"],
        ["--corpus", "/nonexistent"],
        ["--replay", "/nonexistent"],
        ["--continue", "/nonexistent"],
        ["--arch", "aarch64"],
        ["--guest", "nonsense"],
        ["--qemu", "/nonexistent"],
        ["--qemu", "/nonexistent", "--jobs", "2"],
    ],
)
def test_bad_options_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """They are refused in one sentence, before a folder is made."""
    monkeypatch.chdir(tmp_path)
    assert (
        main(["explore", "--results", "new", *words] if "--continue" not in words else ["explore", *words])
        == 2
    )
    assert list(tmp_path.iterdir()) == []
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("snapproof:")]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explore", "--seconds", "abc"], "'abc' does not fit; give a positive number of seconds"),
        (["explore", "--seconds", "-1"], "'-1' does not fit; give a positive number of seconds"),
        (["explore", "--seconds", "1e8"], "give a positive number of seconds"),
        (["explore", "--jobs", "0"], "give a positive number of jobs"),
        (["explore", "--runs", "0"], "give a positive number of lists"),
        (["explore", "--seed", "-1"], "give a number from 0 to 2^64 - 1"),
        (["run", "--repeat", "0"], "give a positive number"),
        (["run", "--shard", "3/2"], "give I/N with I from 1 to N"),
        (["attach", "--qmp", "x", "--seconds", "x"], ""),
        (["check", "--offset", "x", "f"], "give a number of bytes"),
        (["diff", "--offset", "x", "a", "b"], "give a number of bytes"),
        (["report", "compare", "--factor", "x", "a", "b"], "give a number from 1 on"),
    ],
)
def test_a_value_that_does_not_fit(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    """The error says what is wanted, and no name of a function."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert " value: " not in err
