"""Runs `snapproof selftest --live`: plants each live fault in a running QEMU and shows that it is caught."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import SnapproofError
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_PASS, Status
from snapproof.runs.command_run import CommandRuns
from snapproof.runs.events import EventTail, Progress
from snapproof.runs.options import StackOptions
from snapproof.runs.outputs import write_json_file
from snapproof.runs.stack import prepare_stack
from tests_functional.lib.run import Run
from tests_functional.planted.live_faults import LIVE_FAULTS, planted

_SECONDS = 300.0
_WORDS = {Status.PASS: "caught", Status.FAIL: "missed"}


@dataclass(frozen=True)
class LiveRow:
    """The outcome of one planted fault.

    Attributes:
        fault: name of the fault.
        status: PASS if the right check caught it, FAIL if not; any other status if it could not be planted.
        seconds: time that the test of it took.
        sentence: how it was caught, or why not.
    """

    fault: str
    status: str
    seconds: float
    sentence: str


def selftest_live(
    options: StackOptions, seed: int, folder: Path, progress: Progress, json_file: Path | None
) -> int:
    """Plant each live fault in turn, print a table, and return the command's exit code.

    Args:
        options: QEMU, guest and accelerator.
        seed: seed of the writers.
        folder: for the guests' files; nothing in it is kept.
        progress: shows each step.
        json_file: receives every row, unless it is None.
    """
    stack, environment = prepare_stack(options, folder, progress.step)
    runs = CommandRuns(options, environment, seed, folder, _SECONDS, keep=False)
    rows: list[LiveRow] = []
    for name in LIVE_FAULTS:
        place = folder / name
        place.mkdir()
        run = runs.run(name, stack, place)
        with EventTail(run.events, progress):
            rows.append(_plant(run))
        progress.done()
        _show(rows)
    if json_file:
        content = {"version": 1, "environment": environment, "rows": [asdict(row) for row in rows]}
        write_json_file(json_file, json.dumps(content, indent=1))
    return summarise(rows)


def _plant(run: Run) -> LiveRow:
    begun = time.monotonic()
    try:
        outcome = planted(run.name)(run)
        status, sentence = outcome.status, outcome.sentence
    except SnapproofError as error:
        status, sentence = error.status, error.sentence
    return LiveRow(run.name, status.value, round(time.monotonic() - begun, 1), sentence)


def _show(rows: Sequence[LiveRow]) -> None:
    """Print the last row, and the table's head before the first."""
    if len(rows) == 1:
        print(f"{'fault':18} {'result':8} {'seconds':>7}  how it was seen")
    row = rows[-1]
    word = _WORDS.get(Status(row.status), row.status)
    print(f"{row.fault:18} {word:8} {row.seconds:7.1f}  {row.sentence}", flush=True)


def summarise(rows: Sequence[LiveRow]) -> int:
    """Print the verdict and return the exit code: a pass only if each fault was planted and caught."""
    missed = [row.fault for row in rows if row.status == Status.FAIL.value]
    unplanted = [row.fault for row in rows if row.status not in (Status.PASS.value, Status.FAIL.value)]
    for fault in missed:
        print(f"FAIL: '{fault}' was missed.")
    for fault in unplanted:
        print(f"ERROR: '{fault}' could not be planted, so nothing is known about it.")
    if missed:
        return EXIT_FAIL
    if unplanted or not rows:
        return EXIT_ERROR
    print(f"PASS: all {len(rows)} live faults were caught.")
    return EXIT_PASS
