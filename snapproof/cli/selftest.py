"""Runs `snapproof selftest`: plants every fault of the catalogue and shows that each is caught."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import SetupBroken, UsageError
from harness.status import EXIT_FAIL, EXIT_PASS
from snapproof.cli.options import stack_options
from snapproof.runs.command_run import CommandRuns
from snapproof.runs.events import EventTail, Progress
from snapproof.runs.outputs import write_json_file
from snapproof.runs.selftest_live import selftest_live
from snapproof.runs.stack import prepare_stack
from tests_functional.lib.profile_row import QUICK_GUEST
from tests_functional.planted.selftest import (
    COVERAGE,
    RAM_MIB,
    capture_forms,
    judge_by_restoring,
    require_restorable,
)
from validators.faults.files import CATALOGUE, Row, run_selftest

_SECONDS = 1800.0
_NEEDS_RESTORE = "needs restore"
_CAUGHT = ("caught", "caught by restore")
# The outcomes that are neither caught nor missed, and why.
_OPEN = {
    _NEEDS_RESTORE: "can only be seen by restoring, which needs a self-test without FILE",
    "needs golden image": "can only be seen with a golden image",
    "not covered": "not covered: no oracle looks there (docs/oracles.md, 'What no oracle sees')",
}


@dataclass(frozen=True)
class FormResult:
    """The outcomes of all faults in one form of a snapshot.

    Attributes:
        form: "plain", "mapped-ram", or the name of the user's file.
        rows: one for each fault.
    """

    form: str
    rows: tuple[Row, ...]


def selftest(arguments: argparse.Namespace) -> int:
    """Plant all faults, print the outcomes, and return the exit code that `--help` explains."""
    if arguments.golden and not arguments.file:
        raise UsageError("--golden is the golden image of FILE, and no FILE is given; name it too.")
    if arguments.live and arguments.file:
        raise UsageError(
            "--live plants faults in a running QEMU, so it takes no FILE; leave one of them out."
        )
    if (arguments.offset or arguments.snapshot) and not arguments.file:
        raise UsageError("--offset and --snapshot say where in FILE the stream is, and no FILE is given.")
    progress = Progress()
    environment: dict[str, Any] = {}
    missing: dict[str, str] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="snapproof-selftest-") as name:
            folder = Path(name)
            if arguments.live:
                return selftest_live(
                    stack_options(arguments, own_guest=False),
                    arguments.seed,
                    folder,
                    progress,
                    arguments.json,
                )
            if arguments.file:
                results = [_one_file(arguments, folder, progress)]
            else:
                results, missing, environment = _fresh(arguments, folder, progress)
    except OSError as error:
        raise SetupBroken(f"The self-test could not go on: {error}.") from error
    finally:
        progress.done()
    if arguments.json:
        write_json_file(arguments.json, _json(arguments, results, missing, environment))
    return _summarise(results, missing)


def _one_file(arguments: argparse.Namespace, folder: Path, progress: Progress) -> FormResult:
    show = _row_printer(progress)
    rows = run_selftest(
        arguments.file, arguments.golden, seed=arguments.seed, folder=folder, progress=show,
        offset=arguments.offset, snapshot=arguments.snapshot,
    )  # fmt: skip
    return FormResult(arguments.file.name, tuple(rows))


def _fresh(
    arguments: argparse.Namespace, folder: Path, progress: Progress
) -> tuple[list[FormResult], dict[str, str], dict[str, Any]]:
    """Capture each form of a snapshot and plant all faults in it.

    Returns:
        The outcomes; the forms that could not be captured, with the reason; the environment.
    """
    options = stack_options(arguments, own_guest=False)
    options = replace(options, guest=options.guest or QUICK_GUEST)
    stack, environment = prepare_stack(options, folder, progress.step)
    runs = CommandRuns(options, environment, arguments.seed, folder, _SECONDS, keep=True)
    run = runs.run("selftest", replace(stack, ram_mib=RAM_MIB, coverage=COVERAGE).fitted(), folder)
    results = []
    with EventTail(run.events, progress):
        forms, missing = capture_forms(run)
        show = _row_printer(progress)
        for form in forms:
            golden = form.snapshot.golden.folder if form.snapshot.golden else None
            run.say(f"Planting {len(CATALOGUE)} faults, {form.name}.")
            rows = run_selftest(
                form.snapshot.path, golden, seed=arguments.seed, folder=folder, progress=_offline_only(show)
            )
            require_restorable(run, form)
            for number, row in enumerate(rows):
                if row.outcome == _NEEDS_RESTORE:
                    rows[number] = judge_by_restoring(run, form, row)
                    show(rows[number])
            results.append(FormResult(form.name, tuple(rows)))
    if not results:
        raise SetupBroken(f"No snapshot could be captured: {' '.join(missing.values())}")
    return results, missing, run.environment()


def _offline_only(show: Callable[[Row], None]) -> Callable[[Row], None]:
    """Return a function that shows a row unless restoring has yet to judge it."""
    return lambda row: None if row.outcome == _NEEDS_RESTORE else show(row)


def _row_printer(progress: Progress) -> Callable[[Row], None]:
    """Return a function that prints a row of the table, and the table's head before the first row."""
    headed = False

    def show(row: Row) -> None:
        """Print a row, unless its fault does not apply to this file."""
        nonlocal headed
        progress.done()
        if not headed:
            print(f"{'fault':25} {'form':11} {'result':18} {'place':6} caught by")
            headed = True
        if row.outcome != "not applicable":
            place = ("right" if row.placed else "wrong") if row.outcome == "caught" else "-"
            by = ", ".join(row.caught_by) or _OPEN.get(row.outcome, "nothing")
            if row.outcome == "caught by restore":
                by += f": {row.detail}"
            print(f"{row.fault:25} {row.layout:11} {row.outcome:18} {place:6} {by}", flush=True)

    return show


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    """Return how many rows have each outcome, and how many of the caught ones name the place."""
    counts = dict(Counter(row.outcome for row in rows))
    counts["placed"] = sum(row.placed for row in rows)
    return counts


def _summarise(results: Sequence[FormResult], missing: dict[str, str]) -> int:
    """Print the figures and the missed faults, and return the command's exit code."""
    for result in results:
        counts = _counts(result.rows)
        planted = len(result.rows) - counts.get("not applicable", 0)
        caught = sum(counts.get(word, 0) for word in _CAUGHT)
        share = 100 * counts["placed"] / caught if caught else 0.0
        print(
            f"{result.form}: {planted} of {len(result.rows)} faults apply to it and were planted, "
            f"{counts.get('caught', 0)} caught by checks, "
            f"{counts.get('caught by restore', 0)} by restoring, {counts.get('missed', 0)} missed; "
            f"place named rightly for {counts['placed']} of {caught} ({share:.1f} %)."
        )
        for word, reason in _OPEN.items():
            if counts.get(word):
                print(f"{result.form}: {counts[word]} {reason}.")
    for form, sentence in missing.items():
        print(f"{form}: not captured: {sentence}")
    missed = [(result.form, row) for result in results for row in result.rows if row.outcome == "missed"]
    for form, row in missed:
        print(f"FAIL: '{row.fault}' at {row.place} was missed, {form}; its seed is {row.seed}.")
    if not missed:
        print("PASS: no planted fault was missed.")
    return EXIT_FAIL if missed else EXIT_PASS


def _json(
    arguments: argparse.Namespace,
    results: Sequence[FormResult],
    missing: dict[str, str],
    environment: dict[str, Any],
) -> str:
    explanations = {fault.name: fault.explanation for fault in CATALOGUE}
    content = {
        "version": 1,
        "status": "FAIL" if any(_counts(result.rows).get("missed") for result in results) else "PASS",
        "seed": arguments.seed,
        "environment": environment,
        "not_captured": missing,
        "forms": [
            {
                "form": result.form,
                "counts": _counts(result.rows),
                "rows": [{**asdict(row), "explanation": explanations[row.fault]} for row in result.rows],
            }
            for result in results
        ],
    }
    return json.dumps(content, indent=1)
