"""Runs programs of this machine to their end, with their messages in English and a limit on their time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import Evidence, SetupBroken


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
        seconds: limit for the program.
        environment: all of its variables but LC_ALL; by default those of this process.
        cwd: the folder that it runs in; by default the one of this process.

    Raises:
        SetupBroken: the program did not end in time.
    """
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env={**(os.environ if environment is None else environment), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SetupBroken(f"{name} did not {task} within {seconds:.0f} s.", Evidence(command)) from error


def first_output_line(command: Sequence[str]) -> str:
    """Return the first line that a program prints, empty where it prints none."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return (done.stdout.splitlines() or [""])[0]
