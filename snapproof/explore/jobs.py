"""Runs several campaigns side by side, each a process with its own seed, and merges what they found."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SetupBroken
from snapproof.explore.journal import SUMMARY_FILE
from snapproof.explore.merge import merge_campaigns, read_part

_SAY_SECONDS, _END_SECONDS = 5.0, 30.0
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

    Raises:
        SetupBroken: no job has left results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = [Path(command[command.index("--seed") + 3]) for command in commands]
    with contextlib.ExitStack() as opened:
        jobs = []
        for command, place in zip(commands, places, strict=True):
            log = opened.enter_context((folder / f"{place.name}.log").open("a", encoding="utf-8"))
            jobs.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        try:
            while any(job.poll() is None for job in jobs):
                say(_line(places))
                _wait(jobs)
        finally:
            _end(jobs)
    parts = [read_part(place) for place in places if (place / SUMMARY_FILE).is_file()]
    if not parts:
        raise SetupBroken(f"None of {len(jobs)} jobs has run a list; see '{folder / places[0].name}.log'.")
    return merge_campaigns(parts, folder)


def _wait(jobs: Sequence[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _SAY_SECONDS
    for job in jobs:
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(max(0.0, until - time.monotonic()))


def _end(jobs: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the jobs that still run, as after an interruption: each writes what it has got."""
    for job in jobs:
        if job.poll() is None:
            job.terminate()
    for job in jobs:
        try:
            job.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            job.kill()
            job.wait()


def _line(places: Sequence[Path]) -> str:
    lists = proofs = causes = 0
    for place in places:
        with contextlib.suppress(OSError, ValueError):
            summary = json.loads((place / SUMMARY_FILE).read_text(encoding="utf-8"))
            lists, proofs = lists + summary["lists"], proofs + summary["proofs"]
            causes += len(summary["findings"])
    return f"{len(places)} jobs: {lists} lists, {proofs} proofs, {causes} causes"
