"""Runs rows of a profile as Avocado jobs, and collects one outcome for each, even of a killed test.

Import it within `avocado_places.own_settings`, since Avocado reads its settings when it is imported.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

from avocado.core.job import Job
from avocado.core.suite import TestSuite

import tests_functional
from harness.deadline import patient
from harness.errors import SetupBroken
from harness.status import Status, worst
from snapproof.report.run_result import OutcomeRecord
from snapproof.runs.avocado_places import status_socket
from snapproof.runs.events import EVENTS_FILE
from snapproof.runs.interruption import asked_to_stop, only_noted
from snapproof.runs.side_by_side import Plan
from snapproof.runs.spawner import SPAWNER, own_spawner
from tests_functional.lib.outcome import OUTCOME_FILE, SO_FAR_FILE
from tests_functional.lib.profile_row import ProfileRow
from tests_functional.lib.run import remove_heavy

# Avocado's own clock starts before the test's; a killed test never reports, so both must end it.
_TASK_GRACE_SECONDS = 30


def run_plan(plan: Plan, common: Mapping[str, str | int | float], folder: Path) -> dict[str, OutcomeRecord]:
    """Run tests in processes of their own.

    Args:
        plan: the tests, and which of them run side by side.
        common: parameters that all tests get.
        folder: the results folder; tests get `folder/tests/NAME`.

    Returns:
        One outcome per row, by its name. A test that was killed or never ran is an ERROR.

    Raises:
        SetupBroken: Avocado does not find one of the tests, or no socket can be made.
    """
    with status_socket() as path:
        return _run_jobs(plan, common, folder, path)


def _run_jobs(
    plan: Plan, common: Mapping[str, str | int | float], folder: Path, status: Path
) -> dict[str, OutcomeRecord]:
    rows = (*plan.together, *plan.alone)
    config = {
        "run.spawner": SPAWNER,
        "run.status_server_auto": False,
        "run.status_server_listen": str(status),
        "run.status_server_uri": str(status),
        "run.results_dir": str(folder / "avocado"),
        # A name that is none of Avocado's streams silences Avocado; "none" would silence our own output too.
        "core.show": ["snapproof"],
        "sysinfo.collect.enabled": False,
        "job.run.result.html.enabled": False,
    }
    suites = [
        _suite(name, part, common, folder, {**config, "run.max_parallel_tasks": workers})
        for name, part, workers in (("together", plan.together, plan.workers), ("alone", plan.alone, 1))
        if part
    ]
    begun = time.monotonic()
    with own_spawner(_modules(rows)) as killed:
        for suite in suites:
            # One job each: a job that is interrupted ends the suite it is in and goes on with the next.
            if not asked_to_stop():
                _run_job(config, suite)
    seconds = time.monotonic() - begun
    return {row.name: _collect(row, folder, seconds, killed.get(row.name, "")) for row in rows}


def _run_job(config: Mapping[str, object], suite: TestSuite) -> None:
    # Avocado resets both to their values at its import (core/output.py, StdOutput), which would mix text for
    # people into the events of `--events -`.
    with redirect_stdout(sys.stdout), redirect_stderr(sys.stderr), Job(config, [suite]) as job:
        # Avocado lists failures on stderr in spite of `core.show`; we print them ourselves.
        logging.getLogger("avocado.app").handlers[:] = [logging.NullHandler()]
        with only_noted():
            job.run()


def _suite(
    name: str,
    rows: Sequence[ProfileRow],
    common: Mapping[str, str | int | float],
    folder: Path,
    config: Mapping[str, object],
) -> TestSuite:
    runnables = []
    for row in rows:
        parameters = {
            **common,
            **row.parameters,
            "name": row.name,
            "seconds": row.seconds,
            "folder": str(folder / "tests" / row.name),
            "results": str(folder),
            "events": str(folder / EVENTS_FILE),
            "parent_pid": os.getpid(),
        }
        runnables += _resolve(row, parameters)
    longest = max(row.seconds for row in rows)
    config = {**config, "task.timeout.running": patient(longest + _TASK_GRACE_SECONDS)}
    return TestSuite(name, config=config, tests=runnables, job_config=config)


def _modules(rows: Sequence[ProfileRow]) -> list[str]:
    """Return the names of the modules that hold the tests of some rows."""
    paths = {row.test.partition(":")[0].removesuffix(".py") for row in rows}
    return [f"{tests_functional.__name__}.{path.replace('/', '.')}" for path in sorted(paths)]


def _resolve(row: ProfileRow, parameters: Mapping[str, str | int | float]) -> list[object]:
    """Return the one runnable of a row, in a list.

    Avocado silently drops a test whose base class it cannot import, so the count is checked.
    """
    home = Path(tests_functional.__file__).parent
    if str(home.parent) not in sys.path:
        # Avocado's static resolver looks for base classes on the path only, which an editable install
        # does not put its packages on.
        sys.path.append(str(home.parent))
    config = {
        # Avocado takes the part after the colon as a regular expression; test_x would find test_x_y too.
        "resolver.references": [f"{home / row.test}$"],
        "run.dict_variants": [dict(parameters)],
        "run.dict_variants.variant_id_keys": ["name"],
        "run.ignore_missing_references": True,
    }
    found = TestSuite.from_config(config, name=row.name).tests or []
    if len(found) != 1:
        raise SetupBroken(
            f"Avocado found {len(found)} tests for '{row.test}' instead of one. Either the row "
            f"'{row.name}' has a wrong name there, or Avocado cannot import the test's base class."
        )
    return list(found)


def _collect(row: ProfileRow, folder: Path, seconds: float, killed: str = "") -> OutcomeRecord:
    """Return the outcome that a test has left.

    Args:
        row: the test.
        folder: the results folder.
        seconds: how long all tests together took.
        killed: what of it was killed by somebody else, "" if nothing was.
    """
    place = Path("tests") / row.name
    try:
        data = json.loads((folder / place / OUTCOME_FILE).read_text(encoding="utf-8"))
        return OutcomeRecord.from_json(data).placed(str(place))
    except FileNotFoundError:
        remove_heavy(folder / place)
    if killed:
        sentence = f"The test did not report: {killed}; the kernel's log says more (see 'dmesg')."
    elif asked_to_stop():
        sentence = "The run was interrupted before this test had reported."
    else:
        sentence = (
            f"The test did not report; it had {patient(row.seconds):.0f} s, and the run of the tests ended "
            f"after {seconds:.0f} s. See '{folder / 'avocado'}' and the test's own logs."
        )
    return _unreported(OutcomeRecord(row.name, Status.ERROR, sentence, folder=str(place)), folder / place)


def _unreported(outcome: OutcomeRecord, place: Path) -> OutcomeRecord:
    """Return the outcome of a test that did not report, with what it had judged until then.

    A snapshot that was found wrong stays wrong, however its test ended.
    """
    so_far = _so_far(place / SO_FAR_FILE)
    status = worst(one.status for one in so_far)
    if status is None:
        return outcome
    found = next(one for one in so_far if one.status is status)
    outcome = replace(
        found,
        sentence=outcome.sentence,
        checks=[check for one in so_far for check in one.checks],
        figures={name: value for one in so_far for name, value in one.figures.items()},
        status=outcome.status,
        folder=outcome.folder,
    )
    if status is Status.FAIL:
        return replace(outcome, status=status, sentence=f"{found.sentence} ({outcome.sentence})")
    return replace(outcome, sentence=f"{outcome.sentence} Until then: {found.sentence}")


def _so_far(path: Path) -> list[OutcomeRecord]:
    """Return the outcomes of the snapshots that a test had judged; no line that is cut off."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [OutcomeRecord.from_json(json.loads(line)) for line in lines if line.endswith("\n")]
