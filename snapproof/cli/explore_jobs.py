"""Runs `snapproof explore --jobs`: several campaigns side by side, merged and told as one."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.errors import UsageError
from harness.plural import counted
from harness.status import (
    EXIT_ALL_SKIPPED,
    EXIT_ERROR,
    EXIT_FAIL,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_RAN,
    EXIT_PASS,
)
from snapproof.cli.explore_stack import prepare_bare
from snapproof.cli.options import stack_options
from snapproof.explore.folder import (
    job_folders,
    locked,
    read_earlier,
    require_same_stack,
    seed_of,
    with_options_of,
)
from snapproof.explore.jobs import Jobs, job_commands, run_jobs
from snapproof.explore.journal import SUMMARY_FILE
from snapproof.explore.results import INTERRUPTED, known_sentence, result_of, write_campaign
from snapproof.runs.events import Progress
from snapproof.runs.own_command import own_command
from snapproof.runs.results_folder import own_results_folder

_WORST_FIRST = (EXIT_FAIL, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_NOTHING_RAN, EXIT_ALL_SKIPPED, EXIT_PASS)
_CLOSING = {
    EXIT_FAIL: "FAIL: found {causes} outside of the baseline.",
    EXIT_ERROR: "ERROR: a job ended with an error.",
    EXIT_INTERRUPTED: "ERROR: the campaigns were interrupted.",
    EXIT_NOTHING_RAN: "ERROR: a job ran no list.",
    EXIT_ALL_SKIPPED: "SKIP: a job was skipped.",
    EXIT_PASS: "PASS: nothing was found that is not in the baseline.",
}


def explore_side_by_side(arguments: argparse.Namespace) -> int:
    """Run several campaigns side by side, merge them, and return the exit code of the worst one."""
    progress, command = Progress(), own_command()
    seed = _earlier_seed(arguments) if arguments.go_on else arguments.seed
    jobs = Jobs(arguments.jobs, 1 if seed is None else seed, arguments.runs)
    with ExitStack() as opened:
        opened.callback(progress.done)
        if not arguments.kernel:
            _require_stack(arguments, progress)
        _warn_of_load(arguments.jobs)
        folder: Path = (arguments.go_on or own_results_folder(arguments.results, "explore-")).absolute()
        opened.enter_context(locked(folder))
        summary = run_jobs(job_commands(jobs, folder, command), folder, progress.step)
        progress.done()
        write_campaign(folder, summary, command)
    return _summarise(summary, folder, result_of(summary, command).exit_code)


def _earlier_seed(arguments: argparse.Namespace) -> int:
    """Return the seed of the first of the campaigns that go on.

    Raises:
        UsageError: the folder has another number of campaigns, or another seed was given.
    """
    places = job_folders(arguments.go_on)
    if len(places) != arguments.jobs:
        have = f"{counted(len(places), 'campaign')} side by side"
        raise UsageError(
            f"'{arguments.go_on}' has {have}, and not {arguments.jobs}: "
            + (f"give --jobs {len(places)}." if places else "leave --jobs out.")
        )
    # Of one that was killed before it began there is nothing to read.
    begun = [place for place in places if (place / SUMMARY_FILE).is_file()]
    if not begun:
        raise UsageError(f"'{arguments.go_on}' has no campaign to go on with: none has begun.")
    before = places.index(begun[0])
    given = None if arguments.seed is None else arguments.seed + before
    return seed_of(begun[0], read_earlier(begun[0]), given) - before


def _require_stack(arguments: argparse.Namespace, progress: Progress) -> None:
    """Check once that lists can run, and are those of the campaigns that go on, before jobs are begun.

    Raises:
        SnapproofError: they cannot, or are not.
    """
    given = stack_options(arguments, own_guest=False)
    places = job_folders(arguments.go_on) if arguments.go_on else []
    begun = next((place for place in places if (place / SUMMARY_FILE).is_file()), None)
    earlier = read_earlier(begun) if begun else None
    with TemporaryDirectory(prefix="snapproof-explore-") as place:
        options = with_options_of(earlier, given) if earlier else given
        _, _, environment = prepare_bare(options, Path(place), progress.step)
    if begun is not None and earlier is not None:
        require_same_stack(begun, earlier, environment)


def _warn_of_load(jobs: int) -> None:
    processors = len(os.sched_getaffinity(0))
    if jobs > processors:
        print(
            f"snapproof: {jobs} jobs share {counted(processors, 'processor')}; lists whose QEMU gets less "
            "than half of one have no verdict.",
            file=sys.stderr,
        )


def _summarise(summary: dict[str, Any], folder: Path, code: int) -> int:
    for number, finding in enumerate(summary["findings"], 1):
        print(f"{number}. {finding['sentence']}\n   {folder / 'findings' / finding['folder']}")
    for name, times in summary["known_issues"].items():
        print(known_sentence(name, times, summary["known_shown"].get(name, {})))
    for job in summary["jobs"]:
        if job["exit_code"] not in (EXIT_PASS, EXIT_FAIL):
            print(f"{job['folder']} ended with exit code {job['exit_code']}: {folder / job['log']}")
    causes = counted(len(summary["findings"]), "cause")
    figures = ", ".join(
        counted(number, noun)
        for number, noun in (
            (len(summary["jobs"]), "job"), (summary["lists"], "list"), (summary["proofs"], "proof"),
        )
    )  # fmt: skip
    print(
        f"{figures}, {counted(summary['pages_compared'], 'page')} compared, "
        f"{counted(len(summary['reached']), 'thing')} reached, {causes}; {_of(summary)}."
    )
    print(f"Results: {folder}")
    worst = worst_code([code, *(job["exit_code"] for job in summary["jobs"])])
    said = EXIT_INTERRUPTED if worst == EXIT_ERROR and summary["state"] == INTERRUPTED else worst
    print(_CLOSING[said].format(causes=causes))
    return worst


def _of(summary: dict[str, Any]) -> str:
    """Return the seeds, and what was explored."""
    environment = summary["environment"]
    seeds = json.dumps(summary["seeds"]).strip("[]")
    kernel = environment.get("host_kernel", "several kernels")
    what = f"Linux {kernel}" if summary["environment"].get("kernel_lists") else f"QEMU {environment['qemu']}"
    return f"{'seed' if len(summary['seeds']) == 1 else 'seeds'} {seeds}, {what}"


def worst_code(codes: list[int | None]) -> int:
    """Return the worst of several exit codes; one that is no verdict, such as a signal's, is an error."""
    known = [code if code in _WORST_FIRST else EXIT_ERROR for code in codes if code is not None]
    return min(known, key=_WORST_FIRST.index)
