"""Takes snapshots in a row: each starts as soon as QEMU reports the one before as completed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SnapproofError
from harness.qemu import migration
from harness.qemu.qmp import CommandRefused
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.checks import Problem, judged, problems_of
from validators.judge import check_file
from validators.verdict import CheckResult

_IN_A_ROW = 20
_NEXT = "The next save may start as soon as QEMU reports the one before as completed."
_FILE = "The last of the files is right by every offline check."


def back_to_back(run: Run) -> Outcome:
    """Ask 20 times for a save as soon as QEMU reports the one before as completed."""
    begun = time.monotonic()
    with writing_guest(run) as source:
        migration.require_capability(source.guest.machine, migration.BACKGROUND_SNAPSHOT)
        checks = [_saves_in_a_row(run, source)]
        if source.guest.machine.alive():
            checks.append(_one_more(run, source))
            # The source guest must be unharmed even after a refusal.
            checks += [
                replace(check, name=f"succession/{check.name}")
                for check in judge_source(source.guest, source.before)
            ]
            source.guest.machine.quit()
    holds = f"{_IN_A_ROW} background snapshots followed one another without a pause."
    return outcome_of(run, checks, time.monotonic() - begun, holds)


def _saves_in_a_row(run: Run, source: Source) -> CheckResult:
    machine = source.guest.machine
    problems: list[Problem] = []
    done = 0
    run.say(f"Taking {_IN_A_ROW} snapshots, each as soon as the one before has completed.")
    while done < _IN_A_ROW and not problems:
        try:
            migration.start_save(machine, migration.exec_sink(Path("/dev/null")))
            migration.wait_reported_completed(machine, run.deadline.at_most(SMALL_SAVE_SECONDS))
            done += 1
        except CommandRefused as refusal:
            status = machine.query_migrate().get("status")
            sentence = f"QEMU refused save {done + 1}: {refusal.reason}; its migration status is '{status}'."
            problems.append(Problem.of_error(refusal, sentence))
        except SnapproofError as error:
            problems.append(
                Problem.of_error(error, f"Save {done + 1} failed, or QEMU ended: {error.sentence}")
            )
    return judged("succession/next-save", _NEXT, problems, {"saves": done})


def _one_more(run: Run, source: Source) -> CheckResult:
    """Check that one more snapshot is possible and right, even after a refusal."""
    machine, path = source.guest.machine, run.folder / "vmstate"
    deadline = run.deadline.at_most(SMALL_SAVE_SECONDS)
    problems: list[Problem] = []
    try:
        _let_end(source, deadline)
        migration.complete_save(machine, migration.exec_sink(path), deadline)
        problems += problems_of(check_file(path, agent_ran=True).violations)
    except SnapproofError as error:
        problems.append(Problem.of_error(error, f"No further save is possible: {error.sentence}"))
    if not problems:
        run.discard(run.folder)
    return judged("succession/file", _FILE, problems)


def _let_end(source: Source, deadline: Deadline) -> None:
    """Cancel a migration that a refused save may have left behind, as a user would."""
    machine = source.guest.machine
    if machine.query_migrate().get("status") != "completed":
        machine.qmp.execute("migrate_cancel")
    migration.wait_cleaned_up(machine, deadline)
