"""Runs `snapproof explore`: draws lists of steps, runs and judges them, and reports what failed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.plural import counted
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_NOTHING_RAN, EXIT_PASS
from snapproof.cli.explore_jobs import explore_side_by_side
from snapproof.cli.explore_kernel import explore_kernel
from snapproof.cli.explore_options import require_fit
from snapproof.cli.explore_stack import prepare_bare
from snapproof.cli.options import stack_options
from snapproof.explore.campaign import (
    REDUCTION_SECONDS,
    Campaign,
    baseline_issues,
    make_drawer,
)
from snapproof.explore.coverage import load_corpus
from snapproof.explore.folder import (
    LOCK_FILE,
    kept_options,
    locked,
    read_earlier,
    require_same_stack,
    seed_of,
    with_options_of,
)
from snapproof.explore.journal import read_list
from snapproof.explore.results import INTERRUPTED, RUNNING, known_sentence, result_of
from snapproof.explore.self_check import FAULTS, search_faults
from snapproof.runs.command_run import CommandRuns
from snapproof.runs.event_stream import append_end
from snapproof.runs.events import EVENTS_FILE, Progress
from snapproof.runs.own_command import own_command
from snapproof.runs.results_folder import own_results_folder, remove_empty
from tests_functional.explore.executor import Record
from tests_functional.explore.known import known_issue
from tests_functional.explore.steps import StepList
from tests_functional.kernel.explore.limits import Limits
from tests_functional.lib.run import Run

_FAULT_SECONDS = 120.0
_FIRST_SEED = 1
# Each list has a time limit of its own.
_ALWAYS_SECONDS = 1e9


def explore(arguments: argparse.Namespace) -> int:
    """Explore, print what was found, and return the exit code that `--help` explains."""
    require_fit(arguments)
    if arguments.jobs > 1:
        return explore_side_by_side(arguments)
    if arguments.kernel:
        arguments.seed = _FIRST_SEED if arguments.seed is None else arguments.seed
        return explore_kernel(arguments)
    # All that may be refused comes before a folder is made.
    faults = _faults(arguments)
    replayed = read_list(arguments.replay) if arguments.replay else None
    corpus = _read_corpus(arguments.corpus) if arguments.corpus else []
    earlier = read_earlier(arguments.go_on) if arguments.go_on else None
    progress = Progress()
    with ExitStack() as opened:
        opened.callback(progress.done)
        folder = (arguments.go_on or own_results_folder(arguments.results, "explore-")).absolute()
        if replayed is None:
            opened.enter_context(locked(folder))
        try:
            run, options, seed = _make_run(arguments, folder, earlier, progress.step)
        except BaseException:
            _remove_unused(folder, earlier)
            raise
        if replayed is not None:
            return _replay(run, replayed, progress)
        drawer = make_drawer(run, baseline_issues())
        if arguments.self_check:
            seconds = arguments.seconds or _FAULT_SECONDS
            return search_faults(run, drawer, seed, seconds, progress.step, faults)
        campaign = Campaign(run, seed, progress.step, baseline_issues(), options)
        campaign.coverage.corpus.extend(corpus)
        if earlier is not None:
            campaign.go_on()
        limits = Limits(_time(arguments), arguments.runs, REDUCTION_SECONDS)
        try:
            campaign.explore(drawer, limits)
        finally:
            progress.done()
            _end(campaign)
        return _summarise(campaign, folder)


def _end(campaign: Campaign) -> None:
    """Write all results as they are at the end of a campaign, or where it was interrupted."""
    if campaign.state == RUNNING:
        campaign.state = INTERRUPTED
    campaign.write()
    campaign.report()
    result = result_of(campaign.to_json(), own_command())
    why = "The campaign was interrupted." if campaign.state == INTERRUPTED else ""
    append_end(campaign.run.folder / EVENTS_FILE, result, why)


def _remove_unused(folder: Path, earlier: Mapping[str, Any] | None) -> None:
    """Remove a new folder in which nothing has begun."""
    if earlier is None:
        (folder / LOCK_FILE).unlink(missing_ok=True)
        remove_empty(folder)


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


def _make_run(
    arguments: argparse.Namespace,
    folder: Path,
    earlier: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> tuple[Run, Mapping[str, str], int]:
    """Return the Run of all lists, the options that chose its stack, and the seed."""
    given, seed = stack_options(arguments, own_guest=False), arguments.seed
    if earlier is not None:
        given, seed = with_options_of(earlier, given), seed_of(folder, earlier, seed)
    options, stack, environment = prepare_bare(given, folder, say)
    if earlier is not None:
        require_same_stack(folder, earlier, environment)
    seed = _FIRST_SEED if seed is None else seed
    runs = CommandRuns(options, environment, seed, folder, _ALWAYS_SECONDS, keep=True)
    return runs.run("explore", stack, folder), kept_options(given), seed


def _read_corpus(path: Path) -> list[StepList]:
    try:
        return load_corpus(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"The corpus '{path}' cannot be read: {error}.") from error


def _replay(run: Run, replayed: StepList, progress: Progress) -> int:
    campaign = Campaign(run, run.seed, progress.step)
    record = campaign.take(replayed)
    progress.done()
    return _say_replayed(
        record, known_issue(replayed, record.violations, baseline_issues(), campaign.version), run.folder
    )


def _say_replayed(record: Record, known: str, folder: Path) -> int:
    for violation in record.violations:
        print(f"{violation.check}: {violation.code.value}: {violation.sentence}")
    if record.failed:
        print(f"Results: {folder}")
    if known:
        print(f"Known issue {known} explains it.")
        return EXIT_PASS
    if record.failed:
        print(f"FAIL: the list of {counted(len(record.steps.steps), 'step')} fails.")
        return EXIT_FAIL
    if record.error:
        print(f"ERROR: {record.error}")
        return EXIT_ERROR
    print(
        f"PASS: {counted(record.taken, 'step')} taken and {counted(record.proofs, 'snapshot')} judged, "
        "nothing is wrong."
    )
    return EXIT_PASS


def _summarise(campaign: Campaign, folder: Path) -> int:
    for number, finding in enumerate(campaign.findings.found, 1):
        print(f"{number}. {finding.sentence}")
        stable = finding.reduced and f"{finding.reduced.failed} of {finding.reduced.tried} runs"
        steps = counted(len(finding.steps.steps), "step")
        print(f"   {finding.times}x, again in {stable}, {steps}: {finding.steps.words}")
        print(f"   {finding.folder}")
    for name, times in sorted(campaign.findings.known.items()):
        print(known_sentence(name, times, campaign.shown.get(name, {})))
    version = campaign.run.host_environment["qemu"]
    print(f"{campaign.line} in {campaign.seconds:.0f} s; seed {campaign.seed}, QEMU {version}.")
    print(f"Results: {folder}")
    if not campaign.lists:
        print("No list was run.")
        return EXIT_NOTHING_RAN
    if campaign.findings.found:
        print(f"FAIL: found {counted(len(campaign.findings.found), 'cause')} outside of the baseline.")
        return EXIT_FAIL
    if len(campaign.errors) == campaign.lists:
        print(f"ERROR: no list has a verdict: {campaign.errors[0]}")
        return EXIT_ERROR
    if campaign.state == INTERRUPTED:
        print("ERROR: the campaign was interrupted.")
        return EXIT_ERROR
    print("PASS: nothing was found that is not in the baseline.")
    return EXIT_PASS
