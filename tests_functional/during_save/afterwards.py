"""What users do after a background snapshot, with its capability left on or switched off again.

Each follows a snapshot that has completed: a save into the guest's disk, or a live migration to another QEMU.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import MachineryMissing, SetupBroken, SnapproofError
from harness.linux.socket_folder import socket_folder
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.spawned_machine import SpawnedMachine
from harness.status import Status
from tests_functional.during_save.disks import snapshot_job, with_image
from tests_functional.during_save.thing import Place, refused_words
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, judge_cycle, writing_guest
from tests_functional.lib.guest import logged_in
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, save
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.checks import Problem, judged
from validators.oracles.o3_restored_guest.restored_guest import check_restored_guest
from validators.verdict import CheckResult

_SAVED = "A save into the guest's disk completes, and the guest goes on."
_MOVED = "The other QEMU takes the guest, which remembers all of its memory and goes on there."
_SOURCE = "The source is in the run state that this kind of migration leaves it in."
# Its stream is never seen as a file, so nobody knows T0.
_NEEDS_T0 = "restored-clock"


@dataclass(frozen=True)
class Afterwards:
    """What is done after a snapshot.

    Attributes:
        reason: why it is tested.
        left_on: whether the capability is left on.
        do: does it and judges it.
        input_waits: whether nothing comes on QEMU's standard input, as at a terminal; else it is empty.
    """

    reason: str
    left_on: bool
    do: Callable[[Run, Source, bool], list[CheckResult]]
    input_waits: bool = False


def done_afterwards(name: str) -> Callable[[Run], Outcome]:
    """Return the scenario for one of AFTERWARDS."""
    return lambda run: _run(run, name, AFTERWARDS[name])


def _run(run: Run, name: str, thing: Afterwards) -> Outcome:
    begun = time.monotonic()
    if thing.input_waits:
        executable = with_waiting_input(run.stack.executable, run.folder)
        run = replace(run, stack=replace(run.stack, executable=executable))
    with writing_guest(run, lambda guest: with_image(Place(guest, run.folder, _limit(run)))) as source:
        machine = source.guest.machine
        migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
        run.say("Taking a background snapshot.")
        folder = run.folder / "snapshot"
        folder.mkdir()
        snapshot = save(Flow.LIVE, source.guest, source.counters, folder, _limit(run))
        checks = judge_source(source.guest, source.before)
        if not thing.left_on:
            migration.set_capability(machine, migration.BACKGROUND_SNAPSHOT, False)
        run.say(f"After it, with the capability {'on' if thing.left_on else 'off'}: {thing.reason}.")
        after = thing.do(run, source, thing.left_on)
        # A QEMU that hangs is ended with the block.
        if all(check.status is not Status.FAIL for check in after):
            machine.quit()
        cycle = judge_cycle(run, source, snapshot, name, checks, stalls_by_test="It is a small guest.")
    found = [
        replace(check, name=f"during-save/{name}/{check.name}") for check in (*after, *cycle.verdict.checks)
    ]
    if all(check.status is not Status.FAIL for check in found):
        run.discard(run.folder)
    holds = "What followed the background snapshot was right, and so was the snapshot."
    return outcome_of(run, found, time.monotonic() - begun, holds)


def with_waiting_input(executable: Path, folder: Path) -> Path:
    """Write a script that runs QEMU with a standard input on which nothing comes; return its path."""
    pipe, script = folder / "input", folder / "qemu-with-input"
    os.mkfifo(pipe)
    # Open for writing too, so that it has no end.
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(executable))} "$@" 0<>{shlex.quote(str(pipe))}\n')
    script.chmod(0o755)
    return script


def _save_into_disk(run: Run, source: Source, _left_on: bool) -> list[CheckResult]:
    """Save into the guest's disk by the job `snapshot-save`."""
    place, problems = Place(source.guest, run.folder, _limit(run)), []
    try:
        snapshot_job("snapshot-save")(place)
        words = refused_words(place.answers)
        if words:
            problems.append(Problem(Code.SAVE_FAILED, f"QEMU fails to save into the disk: {words}"))
    except SnapproofError as error:
        problems.append(Problem.of_error(error))
    found = [judged("into-disk", _SAVED, problems)]
    return found if problems else [*found, *_named("into-disk", _without_host(source))]


def _without_host(source: Source) -> list[CheckResult]:
    """Judge the source guest. The host was judged before: QEMU has touched its image since."""
    return judge_source(source.guest, source.before)[:-1]


def _migrate(run: Run, source: Source, left_on: bool) -> list[CheckResult]:
    """Migrate the running guest to another QEMU over a socket, and judge it there."""
    machine = source.guest.machine
    config = run.stack.machine_config()
    limit = _limit(run)
    with (
        socket_folder() as sockets,
        SpawnedMachine(config, run.folder / "other", incoming=True) as other,
    ):
        uri = f"unix:{sockets / 'socket'}"
        problems, checks = [], []
        begun = time.monotonic()
        try:
            other.qmp.execute("migrate-incoming", {"uri": uri})
            machine.qmp.execute(
                "migrate-set-parameters", {"downtime-limit": 30_000, "max-bandwidth": 1 << 34}
            )
            migration.complete_save(machine, uri, limit)
            other.wait_status(lambda status: status == "running", limit, "running after the migration")
            with logged_in(other, run.stack, limit) as guest:
                checks = check_restored_guest(guest.agent, source.status, None, begun, False, limit)
        except (MachineryMissing, SetupBroken):
            raise
        except SnapproofError as error:
            problems.append(Problem.of_error(error))
    checks = [check for check in checks if check.name != _NEEDS_T0]
    expected = "running" if left_on else "postmigrate"
    return [
        judged("migrated", _MOVED, problems),
        *_named("migrated", checks),
        _judge_source_state(machine, expected),
    ]


def _judge_source_state(machine: Machine, expected: str) -> CheckResult:
    problems = []
    if machine.alive():
        state = str(machine.qmp.execute("query-status")["status"])
        if state != expected:
            sentence = f"The source guest is '{state}' after the migration, and had to be '{expected}'."
            problems.append(Problem(Code.RUN_STATE_CHANGED, sentence, {"state": state}))
    return judged("migrated-source", _SOURCE, problems)


def _named(prefix: str, checks: list[CheckResult]) -> list[CheckResult]:
    return [replace(check, name=f"{prefix}-{check.name}") for check in checks]


def _limit(run: Run) -> Deadline:
    return run.deadline.at_most(SMALL_SAVE_SECONDS * run.stack.slowness)


AFTERWARDS: Mapping[str, Afterwards] = {
    "then-save-into-disk": Afterwards("backups use snapshot-save", False, _save_into_disk),
    "then-save-into-disk-left-on": Afterwards(
        "the user forgets the capability, and QEMU's standard input is empty (F25)", True, _save_into_disk
    ),
    "then-save-into-disk-at-terminal": Afterwards(
        "QEMU was started at a terminal, and the capability is off again", False, _save_into_disk, True
    ),
    "then-save-into-disk-left-on-at-terminal": Afterwards(
        "QEMU was started at a terminal, and the user forgets the capability (F25)",
        True,
        _save_into_disk,
        True,
    ),
    "then-migrate": Afterwards("the guest moves to another host", False, _migrate),
    "then-migrate-left-on": Afterwards(
        "the user forgets the capability: the other host gets a snapshot, and the source runs on",
        True,
        _migrate,
    ),
}
"""What is done after a snapshot, by its name."""
