"""Contract: a bad environment is no verdict: no command ends with 1 or a traceback for it, and none hangs.

A table of commands and one of environments; each pair is one process, and those of an environment run side by
side. `.venv/bin/pytest tests_unit/snapproof/cli/test_environments.py` is the whole sweep.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests_unit.support.command_values import right_vmstate

_LONG = "t" * 90
_MIB = 1 << 20
_SECONDS = 60


def _limit(kind: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (most, most))


def _closed(*numbers: int) -> Callable[[], None]:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def _full(number: int) -> Callable[[], None]:
    return lambda: void(os.dup2(os.open("/dev/full", os.O_WRONLY), number))


def void(_value: object) -> None:
    """Return nothing."""


def _broken_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


@dataclass(frozen=True)
class Environment:
    """A bad environment, and how a command that would succeed ends in it.

    Attributes:
        name: for the test's id.
        codes: exit codes that are right.
        variables: set for the command; "{}" stands for a new folder, None removes one.
        before: called in the child before the command.
    """

    name: str
    codes: tuple[int, ...] = (0,)
    variables: Mapping[str, str | None] = field(default_factory=dict)
    before: Callable[[], None] | None = None


_ENVIRONMENTS = (
    Environment("stdin closed", before=_closed(0)),
    Environment("stdout closed", (2,), before=_closed(1)),
    Environment("stderr closed", before=_closed(2)),
    Environment("all closed", (2,), before=_closed(0, 1, 2)),
    Environment("stdout full", (2,), before=_full(1)),
    Environment("stderr full", before=_full(2)),
    Environment("reader gone", (2,), before=_broken_pipe),
    Environment("no HOME", variables={"HOME": None}),
    Environment("HOME missing", variables={"HOME": "/nonexistent"}),
    Environment("TMPDIR missing", variables={"TMPDIR": "/nonexistent"}),
    Environment("TMPDIR long", variables={"TMPDIR": "{}/" + _LONG}),
    Environment("TMPDIR with colon", variables={"TMPDIR": "{}/a:1"}),
    Environment("no PATH", variables={"PATH": None}),
    Environment("PATH empty", variables={"PATH": ""}),
    Environment("CDPATH", variables={"CDPATH": "/:/usr"}),
    Environment("C locale", variables={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    Environment("locale missing", variables={"LC_ALL": "xx_YY.UTF-8"}),
    Environment("ASCII output", variables={"PYTHONIOENCODING": "ascii"}),
    Environment("COLUMNS nonsense", variables={"COLUMNS": "0"}),
    Environment("TERM dumb", variables={"TERM": None}),
    Environment("agent missing", variables={"SSH_AUTH_SOCK": "/nonexistent"}),
    Environment("foreign VIRTUAL_ENV", variables={"VIRTUAL_ENV": "/nonexistent"}),
    Environment("cache missing", variables={"XDG_CACHE_HOME": "/nonexistent"}),
    Environment("files of 0 bytes", before=_limit(resource.RLIMIT_FSIZE, 0)),
    Environment("12 descriptors", (0, 2), before=_limit(resource.RLIMIT_NOFILE, 12)),
    Environment("address space", (0, 2), before=_limit(resource.RLIMIT_AS, 400 * _MIB)),
    Environment("little address space", (0, 2), before=_limit(resource.RLIMIT_AS, 95 * _MIB)),
    Environment("no room for threads", (0, 2), before=_limit(resource.RLIMIT_AS, 127 * _MIB)),
    Environment("little data", (0, 2), before=_limit(resource.RLIMIT_DATA, 55 * _MIB)),
    Environment("no core", before=_limit(resource.RLIMIT_CORE, 0)),
    Environment("no locked memory", before=_limit(resource.RLIMIT_MEMLOCK, 0)),
)
_COMMANDS = (
    "check FILE",
    "info FILE",
    "diff FILE FILE",
    "run --list",
    "kernel --list",
    "--help",
    "check --help",
)


@pytest.fixture(scope="module")
def vmstate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a right file, which the commands only read."""
    return str(right_vmstate(tmp_path_factory.mktemp("file")))


@pytest.mark.parametrize("environment", _ENVIRONMENTS, ids=lambda one: one.name)
def test_environment(tmp_path: Path, vmstate: str, environment: Environment) -> None:
    """Each command ends in time with the code that the table has, and without a traceback."""
    variables = _variables(environment, tmp_path)
    with ExitStack() as started:
        running = []
        for command in _COMMANDS:
            one = _started(command.replace("FILE", vmstate), variables, environment)
            started.callback(_end, one)
            running.append((command, one))
        wrong = [_wrong_end(command, one, environment.codes) for command, one in running]
    assert not any(wrong), "\n".join(wrong)


def _variables(environment: Environment, folder: Path) -> dict[str, str]:
    """Return the variables of the environment; a folder that one of them names is made."""
    variables = dict(os.environ)
    for name, value in environment.variables.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = value.replace("{}", str(folder))
            if "{}" in value:
                Path(variables[name]).mkdir()
    return variables


def _started(words: str, variables: Mapping[str, str], environment: Environment) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "snapproof.cli.command", *words.split()],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=environment.before,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that hangs."""
    process.kill()
    process.communicate()


def _wrong_end(command: str, process: subprocess.Popen[bytes], codes: tuple[int, ...]) -> str:
    """Wait for a command's end and return what is wrong with it, empty if nothing is."""
    said = b"".join(process.communicate(timeout=_SECONDS)).decode(errors="replace")
    if process.returncode in codes and "Traceback" not in said and "Exception ignored" not in said:
        return ""
    return f"'{command}' ended with {process.returncode}, expected one of {codes}: {said}"


@pytest.mark.parametrize(
    "name", ["a\x1b[31mb", "a\nPASS: b", "a\rb", "a\x07b", "a\x9bb", "a\u202eb", "a\udcffb"]
)
@pytest.mark.parametrize("there", [True, False])
def test_foreign_name_steers_no_terminal(tmp_path: Path, name: str, there: bool) -> None:
    """The name of FILE is printed with every character escaped that is not printable."""
    vmstate = right_vmstate(tmp_path)
    vmstate = vmstate.rename(tmp_path / name) if there else tmp_path / name
    words: list[str | bytes] = [sys.executable, "-m", "snapproof.cli.command", "check", os.fsencode(vmstate)]
    ended = subprocess.run(words, capture_output=True)
    assert ended.returncode == (0 if there else 2)
    said = (ended.stdout + ended.stderr).decode()
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert "\nPASS: b" not in said
