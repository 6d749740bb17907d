"""Runs `snapproof explore`: draws lists of steps, runs and judges them, and reports what failed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.errors import NotApplicable, UsageError
from harness.qemu.virtio_driver import can_drive
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_NOTHING_RAN, EXIT_PASS
from snapproof.cli.explore_kernel import explore_kernel
from snapproof.cli.options import stack_options
from snapproof.explore.campaign import (
    REDUCTION_SECONDS,
    Campaign,
    baseline_issues,
    make_drawer,
)
from snapproof.explore.coverage import load_corpus
from snapproof.explore.jobs import Jobs, job_commands, run_jobs
from snapproof.explore.journal import SUMMARY_FILE
from snapproof.explore.results import result_of, write_campaign
from snapproof.explore.self_check import FAULTS, search_faults
from snapproof.runs.command_run import CommandRuns
from snapproof.runs.events import Progress
from snapproof.runs.own_command import own_command
from snapproof.runs.results_folder import own_results_folder
from snapproof.runs.stack import prepare_stack
from tests_functional.explore.executor import Record
from tests_functional.explore.known import known_issue
from tests_functional.explore.menu import readable_list
from tests_functional.explore.steps import StepList
from tests_functional.kernel.explore.limits import Limits
from tests_functional.lib.profile_row import QUICK_GUEST
from tests_functional.lib.run import Run

_FAULT_SECONDS = 120.0
# Each list has a time limit of its own.
_ALWAYS_SECONDS = 1e9


def explore(arguments: argparse.Namespace) -> int:
    """Explore, print what was found, and return the exit code that `--help` explains."""
    if arguments.jobs > 1:
        return _explore_side_by_side(arguments)
    if arguments.kernel:
        if arguments.go_on:
            raise UsageError("A campaign of the kernel is not continued: give its corpus.json with --corpus.")
        return explore_kernel(arguments)
    replayed = _read_list(arguments.replay) if arguments.replay else None
    corpus = _read_corpus(arguments.corpus) if arguments.corpus else []
    progress = Progress()
    folder = _folder(arguments)
    try:
        run = _make_run(arguments, folder, progress.step)
        issues = baseline_issues()
        if replayed is not None:
            campaign = Campaign(run, arguments.seed, progress.step)
            record = campaign.take(replayed)
            progress.done()
            return _say_replayed(record, known_issue(replayed, record.violations, issues, campaign.version))
        drawer = make_drawer(run, issues)
        if arguments.self_check:
            seconds = arguments.seconds or _FAULT_SECONDS
            return search_faults(run, drawer, arguments.seed, seconds, progress.step, _faults(arguments))
        campaign = Campaign(run, arguments.seed, progress.step, issues)
        campaign.coverage.corpus.extend(corpus)
        if arguments.go_on:
            campaign.go_on()
        limits = Limits(_time(arguments), arguments.runs, REDUCTION_SECONDS)
        try:
            campaign.explore(drawer, limits)
        finally:
            progress.done()
            campaign.write()
            campaign.report()
        return _summarise(campaign, folder)
    finally:
        progress.done()


def _explore_side_by_side(arguments: argparse.Namespace) -> int:
    """Run several campaigns side by side and merge them."""
    if arguments.replay or arguments.self_check:
        raise UsageError("--jobs is for campaigns: leave --replay and --self-check out.")
    folder: Path = arguments.go_on or own_results_folder(arguments.results, "explore-")
    progress, command = Progress(), own_command()
    jobs = Jobs(arguments.jobs, arguments.seed, arguments.runs)
    try:
        summary = run_jobs(job_commands(jobs, folder, command), folder, progress.step)
    finally:
        progress.done()
    write_campaign(folder, summary, command)
    result = result_of(summary, command)
    for number, finding in enumerate(summary["findings"], 1):
        print(f"{number}. {finding['sentence']}\n   {folder / 'findings' / finding['folder']}")
    print(
        f"{arguments.jobs} jobs: {summary['lists']} lists, {summary['proofs']} proofs, "
        f"{summary['pages_compared']:,} pages compared, {len(summary['reached'])} things reached, "
        f"{len(summary['findings'])} causes."
    )
    print(f"Results: {folder}")
    return result.exit_code


def _folder(arguments: argparse.Namespace) -> Path:
    """Return the folder for the results: a new one, or that of the campaign that goes on.

    Raises:
        UsageError: it cannot be made, or has no campaign of this seed.
    """
    earlier: Path | None = arguments.go_on
    if earlier is None:
        return own_results_folder(arguments.results, "explore-")
    if arguments.results or arguments.replay or arguments.self_check or arguments.corpus:
        raise UsageError(
            "A campaign that goes on has its folder and its corpus: leave --results, --corpus, --replay and "
            "--self-check out."
        )
    try:
        seed = json.loads((earlier / SUMMARY_FILE).read_text(encoding="utf-8"))["seed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"'{earlier}' has no campaign to go on with: {error}.") from error
    if seed != arguments.seed:
        raise UsageError(f"The campaign in '{earlier}' has seed {seed}: give --seed {seed}.")
    return earlier.absolute()


def _faults(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the faults that are planted: those of --fault, or all.

    Raises:
        UsageError: there is no such fault.
    """
    asked = tuple(arguments.fault or FAULTS)
    for name in asked:
        if name not in FAULTS:
            raise UsageError(f"There is no planted fault '{name}'; there are {', '.join(FAULTS)}.")
    return asked


def _time(arguments: argparse.Namespace) -> float | None:
    """Return the campaign's time limit: as given, or the default where no number of lists is given either."""
    if arguments.seconds is not None:
        return float(arguments.seconds)
    return None if arguments.runs else float(arguments.default_seconds)


def _make_run(arguments: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Run:
    options = stack_options(arguments, own_guest=False)
    options = replace(options, guest=options.guest or QUICK_GUEST)
    stack, environment = prepare_stack(options, folder, say)
    if not stack.image.bare or not can_drive(stack.image.architecture, stack.machine):
        raise NotApplicable(
            "Lists of steps play the guest's part through I/O ports, so they take a bare guest that has "
            f"them, and not '{stack.image.name}' on machine type '{stack.machine}'."
        )
    runs = CommandRuns(options, environment, arguments.seed, folder, _ALWAYS_SECONDS, keep=True)
    return runs.run("explore", stack, folder)


def _read_list(path: Path) -> StepList:
    try:
        return readable_list(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UsageError(f"The list of steps '{path}' cannot be read: {error}.") from error


def _read_corpus(path: Path) -> list[StepList]:
    try:
        return load_corpus(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"The corpus '{path}' cannot be read: {error}.") from error


def _say_replayed(record: Record, known: str) -> int:
    for violation in record.violations:
        print(f"{violation.check}: {violation.code.value}: {violation.sentence}")
    if known:
        print(f"Known issue {known} explains it.")
        return EXIT_PASS
    if record.failed:
        print(f"FAIL: the list of {len(record.steps.steps)} steps fails.")
        return EXIT_FAIL
    if record.error:
        print(f"ERROR: {record.error}")
        return EXIT_ERROR
    print(f"PASS: all {record.taken} steps were taken rightly, {record.proofs} snapshots are right.")
    return EXIT_PASS


def _summarise(campaign: Campaign, folder: Path) -> int:
    for number, finding in enumerate(campaign.findings.found, 1):
        print(f"{number}. {finding.sentence}")
        stable = finding.reduced and f"{finding.reduced.failed} of {finding.reduced.tried} runs"
        print(
            f"   {finding.times}x, again in {stable}, {len(finding.steps.steps)} steps: {finding.steps.words}"
        )
        print(f"   {finding.folder}")
    print(f"{campaign.line} in {campaign.seconds:.0f} s; seed {campaign.seed}.")
    print(f"Results: {folder}")
    if not campaign.lists:
        print("No list was run.")
        return EXIT_NOTHING_RAN
    if campaign.findings.found:
        print(f"FAIL: {len(campaign.findings.found)} causes that are not in the baseline.")
        return EXIT_FAIL
    if len(campaign.errors) == campaign.lists:
        print(f"ERROR: no list has a verdict: {campaign.errors[0]}")
        return EXIT_ERROR
    print("PASS: nothing was found that is not in the baseline.")
    return EXIT_PASS
