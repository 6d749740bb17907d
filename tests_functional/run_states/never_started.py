"""Takes a snapshot of a guest that was made and not started; source and restored guest start afterwards."""

from __future__ import annotations

import time
from dataclasses import replace

from harness.errors import MachineryMissing, SnapproofError, SubjectFailed
from harness.qemu import migration
from harness.qemu.ram import dump_golden
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.guest import way_in
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.restored_checks import ONWARDS
from tests_functional.lib.run import Run
from tests_functional.lib.time_limits import RESTORE_SECONDS, SMALL_SAVE_SECONDS
from tests_functional.run_states.states import state_problems
from validators.checks import Problem, judged
from validators.judge import check_file
from validators.oracles.o3_restored_guest.restored_guest import check_run_state
from validators.verdict import CheckResult

_STATE = "prelaunch"
_PREFIX = f"run-states/{_STATE}"
_AFTER = "A guest that has not been started is not started by a snapshot, and can be started after it."
_RESTORED = "The restored guest has not been started, and can be."
_HOLDS = "The snapshot of a guest that has not been started is right, and both can be started."


def never_started(run: Run) -> Outcome:
    """Save a guest that `-S` keeps from starting, judge the file, and start source and restored guest."""
    begun = time.monotonic()
    run.require_room()
    folder = run.folder / _STATE
    folder.mkdir()
    after, completed = _save(run)
    checks = [after]
    if completed:
        run.say("Judging the file.")
        found = check_file(folder / "vmstate", golden=folder / "golden").checks
        checks += [replace(check, name=f"{_PREFIX}/{check.name}") for check in found]
        checks += _restore(run)
    return outcome_of(run, checks, time.monotonic() - begun, _HOLDS)


def _save(run: Run) -> tuple[CheckResult, bool]:
    """Save the guest, and start it; return the check of both, and whether the save was completed."""
    folder, completed = run.folder / _STATE, False
    problems: list[Problem] = []
    stack = run.with_arguments(("-S",)).stack
    run.say(f"Saving a guest that has not been started ({stack.ram_mib} MiB).")
    with SpawnedMachine(stack.machine_config(), run.folder) as machine:
        try:
            with migration.capability_on(machine, migration.BACKGROUND_SNAPSHOT):
                dump_golden(machine, folder / "golden")
                limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
                migration.complete_save(machine, migration.exec_sink(folder / "vmstate"), limit)
                completed = True
            problems += state_problems(machine.qmp.execute("query-status")["status"], _STATE)
            machine.qmp.execute(ONWARDS[_STATE])
            with way_in(machine, stack, run.deadline.at_most(stack.image.boot_seconds)):
                pass
        except SubjectFailed as error:
            problems.append(Problem.of_error(error))
    return judged(f"{_PREFIX}/after", _AFTER, problems), completed


def _restore(run: Run) -> list[CheckResult]:
    """Restore the guest, and start it."""
    run.say("Restoring it into a new QEMU, and starting it.")
    stack, state, problems = run.stack, "", []
    try:
        with SpawnedMachine(stack.machine_config(), run.folder / "restored", incoming=True) as machine:
            uri = migration.exec_source(run.folder / _STATE / "vmstate")
            state = migration.restore(machine, uri, run.deadline.at_most(RESTORE_SECONDS))
            machine.qmp.execute(ONWARDS[_STATE])
            with way_in(machine, stack, run.deadline.at_most(stack.image.boot_seconds)):
                pass
    except MachineryMissing:
        raise
    except SnapproofError as error:
        problems.append(Problem.of_error(error, f"The restored guest failed: {error.sentence}"))
    restored = replace(check_run_state(state, _STATE), name=f"{_PREFIX}/restored-state")
    return [judged(f"{_PREFIX}/restore", _RESTORED, problems), restored]
