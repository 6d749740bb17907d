"""Runs several campaigns side by side, each a process with its own seed, and merges what they found."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.plural import counted
from harness.process import ChildProcess, log_tail
from snapproof.explore.journal import SUMMARY_FILE
from snapproof.explore.merge import is_campaign, merge_campaigns, read_part

_SAY_SECONDS, _END_SECONDS = 5.0, 30.0
# What a campaign says while it reduces a cause.
_REDUCES = re.compile(r"; reducing .*, (run \d+, \d+ steps?)$")
# Options that each job gets its own of; those with a value take the next word along.
_OWN = ("--jobs", "--seed", "--results", "--runs", "--continue")


@dataclass(frozen=True)
class Jobs:
    """How campaigns side by side are divided.

    Attributes:
        count: of campaigns.
        seed: of the first one; the others have those after it.
        runs: lists of all together, None for no limit.
    """

    count: int
    seed: int
    runs: int | None


def job_commands(jobs: Jobs, folder: Path, words: Sequence[str]) -> list[list[str]]:
    """Return the command line of each job: this one, with its own seed, folder and number of lists.

    Args:
        jobs: how they are divided.
        folder: results folder of all.
        words: this command's line, the program first.
    """
    common = without_options(words)
    commands = []
    for number in range(jobs.count):
        place = folder / f"job-{number + 1}"
        way = "--continue" if (place / SUMMARY_FILE).is_file() else "--results"
        own = ["--seed", str(jobs.seed + number), way, str(place)]
        if jobs.runs:
            # The first ones take what is left over.
            more = number < jobs.runs % jobs.count
            own += ["--runs", str(jobs.runs // jobs.count + more)]
        commands.append([*common, *own])
    return [command for command in commands if command[-2:] != ["--runs", "0"]]


def without_options(words: Sequence[str]) -> list[str]:
    """Return a command line without the options that each job gets its own of."""
    kept, skip = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif name in _OWN:
            skip = not equals
        else:
            kept.append(word)
    return kept


def run_jobs(commands: Sequence[Sequence[str]], folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the jobs to their end, merge them into the folder, and return the content of explore.json.

    The kernel kills them if this process is killed. If it is interrupted they end, and are merged.

    Raises:
        SetupBroken: no job has left results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = [Path(command[command.index("--seed") + 3]) for command in commands]
    logs = [folder / f"{place.name}.log" for place in places]
    with contextlib.ExitStack() as opened:
        jobs = [
            opened.enter_context(ChildProcess(command, log))
            for command, log in zip(commands, logs, strict=True)
        ]
        # An interruption is told by asked_to_stop() once all is written.
        with contextlib.suppress(KeyboardInterrupt):
            while any(job.exit_code() is None for job in jobs):
                say(running_line(places, logs))
                _wait(jobs)
        _end(jobs)
        codes = [job.exit_code() for job in jobs]
    parts = [read_part(place) for place in places if is_campaign(place)]
    if not parts:
        raise SetupBroken(f"None of {counted(len(jobs), 'job')} has run a list; see '{logs[0]}'.")
    # Of a merge before this campaign went on.
    shutil.rmtree(folder / "findings", ignore_errors=True)
    ended = [
        {"folder": place.name, "exit_code": code, "log": log.name, "kept": place.is_dir()}
        for place, code, log in zip(places, codes, logs, strict=True)
    ]
    return merge_campaigns(parts, folder, ended)


def _wait(jobs: Sequence[ChildProcess]) -> None:
    until = Deadline(_SAY_SECONDS)
    for job in jobs:
        with contextlib.suppress(DeadlineExpired):
            job.wait(until)


def _end(jobs: Sequence[ChildProcess]) -> None:
    """End the jobs that still run, as after an interruption: each writes what it has got."""
    for job in jobs:
        if job.exit_code() is None:
            os.kill(job.pid, signal.SIGTERM)
    until = Deadline(_END_SECONDS)
    for job in jobs:
        # One that goes on all the same is killed by the end of its `with`.
        with contextlib.suppress(DeadlineExpired):
            job.wait(until)


def running_line(places: Sequence[Path], logs: Sequence[Path]) -> str:
    """Return a line with what the jobs have done together, and which of them reduces a cause."""
    lists = proofs = causes = 0
    reducing = []
    for place, log in zip(places, logs, strict=True):
        with contextlib.suppress(OSError, ValueError):
            summary = json.loads((place / SUMMARY_FILE).read_text(encoding="utf-8"))
            lists, proofs = lists + summary["lists"], proofs + summary["proofs"]
            causes += len(summary["findings"])
        if found := _REDUCES.search(log_tail(log).rstrip().rpartition("\n")[2]):
            reducing.append(f"; {place.name} reduces a cause ({found[1]})")
    figures = (
        counted(number, noun) for number, noun in ((lists, "list"), (proofs, "proof"), (causes, "cause"))
    )
    return f"{counted(len(places), 'job')}: {', '.join(figures)}{''.join(reducing)}"
