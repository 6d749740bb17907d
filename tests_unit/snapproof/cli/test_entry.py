"""The entry point: a signal at any time is one clear end, with exit code 130 and without a traceback."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from snapproof.cli import command
from snapproof.runs import interruption

_ROOT = Path(__file__).parents[3]
_LAUNCHER = _ROOT / "snapproof" / "cli" / "snapproof"
# The end of the launcher; it says when the first line of ours has run.
_SCRIPT = """\
import os, sys
from snapproof.cli.entry import main
os.write(3, b"begun")
sys.exit(main())
"""


def _interrupted(words: list[str], folder: Path, seconds: float) -> tuple[int, str]:
    """Run a command, send SIGINT so long after its entry point began; return its exit code and stderr."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    program = f"import os; os.dup2({writing}, 3); exec({_SCRIPT!r})"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "SNAPPROOF_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(writing,),
        text=True,
    ) as process:
        os.close(writing)
        assert os.read(reading, 5) == b"begun"
        os.close(reading)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("words", [["--help"], ["doctor"], ["run", "--qemu", sys.executable]])
def test_a_signal_is_one_clear_end(words: list[str], number: int, tmp_path: Path) -> None:
    """While modules are imported, while the command runs, and at its end."""
    seconds = random.Random(f"{words}{number}").uniform(0, 1.0)
    code, said = _interrupted(words, tmp_path, seconds)
    assert "Traceback" not in said
    if code == 130:
        assert said.splitlines()[-1].startswith("snapproof: Interrupted; ")
        assert said.count("Interrupted") == 1
    else:
        # It had ended before the signal came; the fake QEMU is refused.
        assert code == (2 if words[0] == "run" else 0) or (words == ["doctor"] and code == 2)


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """The installed script, with a Python beside it, and a link to it."""
    place = tmp_path / "bin"
    place.mkdir()
    shutil.copy(_LAUNCHER, place)
    (place / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (place / "python").chmod(0o755)
    (tmp_path / "link").symlink_to(place / "snapproof")
    return tmp_path / "link"


def test_a_signal_while_python_starts(launcher: Path, tmp_path: Path) -> None:
    """The hooks of installed packages run before any line of ours; a signal then ends it like any program."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [launcher, "doctor"],
        env={**os.environ, "PYTHONPATH": f"{hooks}:{_ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_launcher_hands_over_arguments_and_exit_code(launcher: Path) -> None:
    """Through a link, with spaces and stars in the arguments, and with the installed packages."""
    done = subprocess.run(
        [launcher, "run", "--list", "--filter", "no such * test"],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "matches the filter 'no such * test'" in done.stderr


@pytest.mark.parametrize("variables", [{"PATH": ""}, {"PYTHONHOME": "/nonexistent"}], ids=str)
def test_the_launcher_finds_its_python(launcher: Path, variables: Mapping[str, str]) -> None:
    """Where no program is found by its name, and where another Python has its home set."""
    for script in (launcher, launcher.resolve()):
        done = subprocess.run(
            [script, "run", "--list"],
            env={**os.environ, "PYTHONPATH": str(_ROOT), **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_that_was_swallowed_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library may lose the exception; the command then does not end as if nothing had come."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def swallow(*_: object) -> int:
        interruption.listen()
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            return 0
        return 3

    monkeypatch.setattr(command, "_run", swallow)
    try:
        assert command.main(["doctor"]) == 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        monkeypatch.setattr(interruption, "_asked", False)
    assert capsys.readouterr().err == "snapproof: Interrupted; everything it started has been ended.\n"


@pytest.mark.parametrize(
    ("level", "words", "code"),
    [
        ("1", ["run", "--list"], 0),
        ("1", ["kernel", "--list"], 0),
        ("2", ["run", "--help"], 0),
        ("2", ["run", "--list"], 2),
        ("2", ["kernel", "--list"], 2),
        ("2", ["check", "none-such"], 2),
    ],
)
def test_python_that_optimizes(level: str, words: list[str], code: int, tmp_path: Path) -> None:
    """All works without assertions; without docstrings a sentence says what is needed."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from snapproof.cli.entry import main; sys.exit(main())", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONOPTIMIZE": level},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert ("unset PYTHONOPTIMIZE" in done.stderr) == (code == 2)


def test_a_second_signal_does_not_break_off_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal right after the first is ignored; a later one interrupts again."""
    monkeypatch.setattr(interruption, "_asked", False)
    with pytest.raises(KeyboardInterrupt):
        interruption._interrupt(signal.SIGINT, None)
    interruption._interrupt(signal.SIGINT, None)
    monkeypatch.setattr(interruption, "_last", -100.0)
    with pytest.raises(KeyboardInterrupt):
        interruption._interrupt(signal.SIGINT, None)


def test_a_signal_that_is_only_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In such a block a first signal raises nothing; a later one lets a block that hangs be left."""
    monkeypatch.setattr(interruption, "_asked", False)
    with interruption.only_noted():
        interruption._interrupt(signal.SIGINT, None)
        assert interruption.asked_to_stop()
        monkeypatch.setattr(interruption, "_last", -100.0)
        with pytest.raises(KeyboardInterrupt):
            interruption._interrupt(signal.SIGINT, None)
    monkeypatch.setattr(interruption, "_asked", False)
    with pytest.raises(KeyboardInterrupt):
        interruption._interrupt(signal.SIGINT, None)
