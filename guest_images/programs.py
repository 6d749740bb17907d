"""Runs programs of this machine to their end, with their messages in English and a limit on their time."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.deadline import patient
from harness.errors import Evidence, SetupBroken

_LINE_SECONDS = 60.0


def run_program(
    name: str,
    task: str,
    command: Sequence[str],
    seconds: float,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program that reads no input; return its exit code and its output.

    Args:
        name: the program's name in a message, e.g. `mke2fs`.
        task: its task in a message, e.g. `make the disk`.
        command: the command line.
        seconds: limit for the program on a usual host.
        environment: all of its variables but LC_ALL; by default those of this process.
        cwd: the folder that it runs in; by default the one of this process.

    Raises:
        SetupBroken: the program could not be started, or did not end in time; it and its children are killed.
    """
    limit = patient(seconds)
    try:
        # A process group of its own: a compiler's driver, killed alone, leaves the compiler proper running.
        with subprocess.Popen(
            command,
            cwd=cwd,
            env={**(os.environ if environment is None else environment), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        ) as process:
            try:
                output, errors = process.communicate(timeout=limit)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    except OSError as error:
        raise SetupBroken(f"{name} could not be started: {error.strerror}.", Evidence(command)) from error
    except subprocess.TimeoutExpired as error:
        raise SetupBroken(f"{name} did not {task} within {limit:.0f} s.", Evidence(command)) from error
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def first_output_line(command: Sequence[str]) -> str:
    """Return the first line that a program prints, empty where it prints none.

    Raises:
        SetupBroken: as `run_program`.
    """
    done = run_program(f"'{shlex.join(command)}'", "end", command, _LINE_SECONDS)
    return (done.stdout.splitlines() or [""])[0]
