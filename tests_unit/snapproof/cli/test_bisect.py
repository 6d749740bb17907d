"""Contract: with --bisect the exit codes are those that git bisect run expects, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.status import Status, exit_code
from snapproof.cli import bisect
from snapproof.cli.command import main
from snapproof.report.run_result import OutcomeRecord
from snapproof.runs import interruption
from snapproof.runs.trial_boot import why_untestable
from tests_unit.support.scenario_values import stack

_ROOT = Path(bisect.__file__).parents[2]


@pytest.fixture(autouse=True)
def _restore_signals() -> Iterator[None]:
    """The command takes SIGINT and SIGTERM for itself."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([Status.PASS], 0),
        ([Status.PASS, Status.SKIP], 0),
        ([Status.PASS, Status.FAIL], 1),
        ([Status.ERROR, Status.FAIL], 1),
        ([Status.PASS, Status.ERROR], 125),
        ([Status.PASS, Status.MISS], 125),
        ([Status.SKIP], 125),
        ([], 125),
        # A known issue is not what is looked for, and neither is one that did not show.
        ([Status.XFAIL], 0),
        ([Status.XPASS], 0),
        ([Status.XFAIL, Status.FAIL], 1),
    ],
)
def test_codes_of_runs(statuses: Sequence[Status], code: int) -> None:
    """Good is only what passed, bad only what failed, and all else says nothing."""
    interruption.listen()
    assert bisect.code_for_git(exit_code(statuses)) == code


@pytest.mark.parametrize("words", [["run"], ["kernel"], ["bench", "ab"]])
def test_wrong_words_stop_the_bisection(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An argument that no commit could make right must not make one bad, as argparse's exit code 2 would."""
    assert main([*words, "--bisect", "--no-such-thing"]) >= 128
    assert main([*words, "--bisec", "--no-such-thing"]) >= 128
    with pytest.raises(SystemExit) as ended:
        main([*words, "--no-such-thing"])
    assert ended.value.code == 2
    assert "--no-such-thing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--profile", "none-such"],
        ["run", "--filter", "none-such"],
        ["kernel", "--filter", "none-such"],
        ["kernel", "--host", "none-such"],
        ["bench", "ab", "--a", "/none-such", "--b", "debian-13"],
        ["bench", "ab", "--a", "vm:/none-such", "--b", "vm:debian-13"],
        ["bench", "ab", "--json", "/none-such/ab.json"],
    ],
)
def test_wrong_values_stop_the_bisection(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value that is wrong for every commit stops the bisection with one sentence that names it."""
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--bisect"]) >= 128
    said = capsys.readouterr().err.splitlines()
    assert "none-such" in said[-2]
    assert said[-1] == "bisect: stop here (exit code 255)"


@pytest.mark.parametrize(
    "words",
    [["run", "--list"], ["kernel", "--list"], ["bench", "ab", "--self-check", "2"], ["run", "--bisect=1"]],
)
def test_what_judges_no_commit_stops_the_bisection(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A list is printed for every commit alike, and a gate that judges itself says nothing of B."""
    assert main([*words, *([] if "--bisect=1" in words else ["--bisect"])]) >= 128
    assert "--bisect" in capsys.readouterr().err


def test_commit_that_was_not_built_is_skipped_by_the_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B is the commit; before A's host is even booted."""
    assert main(["bench", "ab", "--bisect", "--a", "local", "--b", f"vm:{tmp_path}/bzImage"]) == 125
    assert "There is no kernel image" in capsys.readouterr().err


def test_failed_build_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU that was not built, or that does not even say its version, cannot be tested."""
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "qemu"
    assert main(["run", "--bisect", "--qemu", str(broken)]) == 125
    assert "does not exist" in capsys.readouterr().err
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    assert main(["run", "--bisect", "--qemu", str(broken)]) == 125
    said = capsys.readouterr().err
    assert "is not a QEMU" in said
    assert said.splitlines()[-1] == "bisect: cannot be tested (exit code 125)"
    assert main(["run", "--qemu", str(broken)]) == 2


def test_kernel_that_was_not_built_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kernel image that is not there cannot be tested."""
    assert main(["kernel", "--bisect", "--host", f"vm:{tmp_path}/bzImage"]) == 125
    assert "There is no kernel image" in capsys.readouterr().err


def test_bug_of_ours_stops_the_bisection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's own exit code of a traceback is 1, which git would take for a bad commit."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("snapproof.cli.run.select", broken)
    assert main(["run", "--bisect"]) >= 128
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_interruption_stops_the_bisection(tmp_path: Path) -> None:
    """Ctrl-C ends the bisection, not only the test of one commit."""
    slow = tmp_path / "qemu"
    slow.write_text(f"#!/bin/sh\n: > {tmp_path}/begun\nexec sleep 25\n")
    slow.chmod(0o755)
    command = [sys.executable, "-m", "snapproof.cli.command", "run", "--bisect", "--qemu", str(slow)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as run:
        ends = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < ends:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.splitlines()[-1] == "bisect: stop here (exit code 130)"


def test_git_takes_the_codes(tmp_path: Path) -> None:
    """Git finds the commit that breaks all later ones, although two of six commits cannot be tested."""
    script = (
        "import sys; from snapproof.cli import bisect; from snapproof.runs import interruption; "
        "interruption.listen(); "
        "sys.exit(bisect.code_for_git(int(open('code').read())))"
    )

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    git("init", "-q")
    for number, code in enumerate((0, 0, 2, 0, 1, 4, 1, 1)):
        (tmp_path / "code").write_text(str(code))
        (tmp_path / "number").write_text(str(number))
        git("add", "code", "number")
        git("commit", "-q", "-m", f"commit {number}")
    git("bisect", "start", "HEAD", "HEAD~7")
    assert "is the first bad commit" in git("bisect", "run", sys.executable, "-c", script)
    assert git("log", "-1", "--format=%s", "refs/bisect/bad").strip() == "commit 4"


def _failed(**more: object) -> OutcomeRecord:
    return OutcomeRecord("snapshot.main-job", Status.FAIL, "It failed.", **more)  # type: ignore[arg-type]


def test_a_failed_check_is_believed(tmp_path: Path) -> None:
    """If an oracle has found a violation, no guest is booted to see whether QEMU can boot one."""
    outcome = _failed(checks=({"name": "write-order", "status": "FAIL"},))
    assert why_untestable([outcome], [], tmp_path, print) == ""


def test_qemu_that_brings_no_guest_up_is_untestable(tmp_path: Path) -> None:
    """A failure without a failed check, of a QEMU that dies at its start, says nothing about snapshots."""
    dead = tmp_path / "qemu"
    dead.write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
    dead.chmod(0o755)
    why = why_untestable([_failed()], [replace(stack(tmp_path), executable=dead)], tmp_path, print)
    assert "does not boot a guest" in why
    assert "no such machine" in why
