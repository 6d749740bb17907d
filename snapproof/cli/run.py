"""Runs `snapproof run`: sets up stacks, runs a profile's tests on them, and fills a results folder."""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.deadline import more_patience, patience
from harness.errors import NoSubject
from harness.hosts.local import local_facts
from harness.plural import counted
from harness.status import EXIT_FAIL, Status
from snapproof.cli.options import run_options
from snapproof.cli.verdict_text import outcome_lines, result_line
from snapproof.report.formats import named_format
from snapproof.report.run_result import OutcomeRecord, RunResult, Selection
from snapproof.runs.avocado_places import own_settings
from snapproof.runs.event_stream import EventStream
from snapproof.runs.events import EVENTS_FILE, EventTail, Progress
from snapproof.runs.interruption import asked_to_stop
from snapproof.runs.matrix import Leg, prepare_legs, table, work_digest
from snapproof.runs.options import RunOptions
from snapproof.runs.profiles import select
from snapproof.runs.results_folder import (
    now,
    own_results_folder,
    remove_empty,
    write_reproducer,
    write_results,
)
from snapproof.runs.side_by_side import Plan, plan
from snapproof.runs.stack import cache_at
from snapproof.runs.trial_boot import why_untestable
from tests_functional.lib.profile_row import ProfileRow
from tests_functional.lib.stack_file import save_stack

_GOOD = (Status.PASS, Status.DONE, Status.XFAIL, Status.XPASS)


def run(arguments: argparse.Namespace) -> int:
    """Run the tests, and return the exit code that `--help` explains."""
    options = run_options(arguments)
    rows = select(options.profile, options.filters)
    if options.prefers_bare:
        rows = tuple(row.quick() for row in rows)
    progress = Progress()
    with (
        more_patience(options.patience),
        EventStream(options.events, progress.line) as stream,
        stream.printing,
    ):
        if (factor := patience()) != 1:
            options = replace(options, patience=factor)
        return _run(options, _stretched(rows, options.repeat), progress, stream)


def _run(options: RunOptions, rows: Sequence[ProfileRow], progress: Progress, stream: EventStream) -> int:
    if options.seed is None:
        options = replace(options, seed=random.randrange(1 << 31))
    started, begun = now(), time.monotonic()
    folder = own_results_folder(options.results)
    try:
        legs = prepare_legs(options, rows, folder, _both(progress.step, stream.step))
    except BaseException:
        remove_empty(folder)
        raise
    command = _command(options)
    stream.started([leg.called(row) for leg in legs for row in leg.rows], command, folder)
    outcomes = _run_legs(options, legs, progress, stream)
    # A shard of a run of several QEMUs may hold tests of one only; their names have its label all the same.
    single = next((leg.environment for leg in legs if not leg.label), None)
    environment = single or {leg.label: leg.environment for leg in legs}
    selection = Selection(
        options.profile,
        options.filters,
        options.repeat,
        options.shard,
        work_digest(len(options.legs()), rows),
    )
    result = RunResult(outcomes, started, time.monotonic() - begun, command, environment, selection)
    try:
        write_results(folder, result, [named_format(name) for name in dict.fromkeys(options.formats)])
    finally:
        # Print the results even if a format cannot be written or the disk is full.
        _print(result, folder, legs)
    stream.over(result)
    if options.bisect and result.exit_code == EXIT_FAIL:
        why = why_untestable(outcomes, [leg.stack for leg in legs], folder, progress.step)
        if why:
            raise NoSubject(why)
    return result.exit_code


def _run_legs(
    options: RunOptions, legs: Sequence[Leg], progress: Progress, stream: EventStream
) -> list[OutcomeRecord]:
    assert options.seed is not None, "chosen before the first leg"
    common: dict[str, str | int | float] = {
        "seed": options.seed,
        "repeat": options.repeat,
        "keep": int(options.keep),
        "cache": str(cache_at(options.stack.cache).folder),
        "mirror": options.stack.mirror or "",
    }
    outcomes: list[OutcomeRecord] = []
    for leg in legs:
        outcomes += _run_leg(
            leg,
            {**common, "newer": leg.newer(legs)},
            _command(options.for_leg(leg.qemu)),
            options.jobs,
            progress,
            stream,
        )
        stream.settle(outcomes)
    return outcomes


def _both(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    def tell(text: str) -> None:
        first(text)
        second(text)

    return tell


def _run_leg(
    leg: Leg,
    common: Mapping[str, str | int | float],
    command: Sequence[str],
    jobs: int | None,
    progress: Progress,
    stream: EventStream,
) -> list[OutcomeRecord]:
    """Run a leg's tests, write their reproducers, and return the outcomes with the leg's label."""
    save_stack(
        leg.stack,
        leg.environment,
        leg.folder,
        (*leg.guests, *leg.others.images),
        leg.uefi,
        leg.others.emulators,
    )
    chosen = [row for row in leg.rows if not leg.why_not(row)]
    found = {row.name: _not_run(leg, row, Status.SKIP, why) for row in leg.rows if (why := leg.why_not(row))}
    if asked_to_stop():
        why = "The run was interrupted before this test had begun."
        found |= {row.name: _not_run(leg, row, Status.ERROR, why) for row in chosen}
    elif chosen:
        tests = plan(chosen, local_facts(), jobs, leg.has_bare_guests(chosen))
        found |= _run_side_by_side(leg, tests, common, progress, stream)
    outcomes = [found[row.name] for row in leg.rows]
    for row, outcome in zip(leg.rows, outcomes, strict=True):
        place = leg.folder / outcome.folder
        place.mkdir(parents=True, exist_ok=True)
        write_reproducer(place, [*command, "--filter", row.name], outcome.sentence)
    return [leg.named(outcome) for outcome in outcomes]


def _run_side_by_side(
    leg: Leg,
    tests: Plan,
    common: Mapping[str, str | int | float],
    progress: Progress,
    stream: EventStream,
) -> dict[str, OutcomeRecord]:
    number = len(tests.together) + len(tests.alone)
    if leg.label:
        progress.step(f"{leg.label}: {number} tests on QEMU {leg.environment['qemu']}.")
    if tests.workers > 1:
        progress.step(f"{tests.workers} tests run side by side.")
    tail = EventTail(leg.folder / EVENTS_FILE, progress, lambda event: stream.test(event, leg.label))
    with own_settings(leg.folder / "avocado"), tail:
        from snapproof.runs.avocado_job import run_plan

        return run_plan(tests, common, leg.folder)


def _not_run(leg: Leg, row: ProfileRow, status: Status, why: str) -> OutcomeRecord:
    """Return the outcome of a test that was never started."""
    return OutcomeRecord(row.name, status, why, environment=leg.environment, folder=f"tests/{row.name}")


def _stretched(rows: Sequence[ProfileRow], repeat: int) -> tuple[ProfileRow, ...]:
    """Return the rows with enough time for `repeat` cycles each."""
    return tuple(replace(row, seconds=row.seconds + (repeat - 1) * row.cycle_seconds) for row in rows)


def _command(options: RunOptions) -> list[str]:
    """Return the command line that makes the same run again."""
    # The full path, because a reader of the results may not have snapproof on PATH.
    return [str(Path(sys.argv[0]).absolute()), *options.as_command()]


def _print(result: RunResult, folder: Path, legs: Sequence[Leg]) -> None:
    for outcome in result.outcomes:
        print("\n".join(outcome_lines(outcome)))
    if len(legs) > 1:
        print("\n".join(["", *table(result.outcomes, legs), ""]))
    print(f"Results: {folder}")
    bad = [outcome for outcome in result.outcomes if outcome.status not in (*_GOOD, Status.SKIP)]
    if bad:
        print(f"Again:   {shlex.quote(str(_reproducer(folder, bad[0])))}")
    print(f"{result_line(result)} in {result.seconds:.0f} s")
    totals = result.totals()
    if totals["snapshots_proven"]:
        print(
            f"Proven:  {counted(totals['snapshots_proven'], 'snapshot')}, "
            f"{counted(totals['pages_compared_with_golden'], 'page')} compared with golden images, "
            f"{counted(totals['agent_pages_verified_offline'], 'agent page')} verified, "
            f"{counted(totals['pages_written_during_saves'], 'page')} written while RAM was saved"
        )
    print(_closing_line(result))
    sys.stdout.flush()


def _closing_line(result: RunResult) -> str:
    """Return the line with counts for CI systems, with errors only if there are any, as pytest does it."""
    good = sum(o.status in _GOOD for o in result.outcomes)
    fails = sum(o.status is Status.FAIL for o in result.outcomes)
    skips = sum(o.status is Status.SKIP for o in result.outcomes)
    errors = len(result.outcomes) - good - fails - skips
    counts = f"{good} passed, {fails} failed, {skips} skipped"
    return f"{counts}, {errors} error{'s' if errors > 1 else ''}" if errors else counts


def _reproducer(folder: Path, outcome: OutcomeRecord) -> Path:
    return folder / outcome.folder / "reproduce.sh"
