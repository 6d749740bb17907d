"""Kills QEMU in the middle of a save: nothing of it may be left, and the next QEMU must work."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, NotApplicable
from harness.process import session_members
from harness.qemu import migration
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.failures.ending import LIMIT_SECONDS
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, snapshot_cycle, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.checks import Problem, judged
from validators.judge import check_file
from validators.verdict import CheckResult

_STILL_SECONDS = 1.0
_LEFT = f"Within {LIMIT_SECONDS:.0f} s no process of the killed QEMU is left and its file grows no more."
_FILE = "The offline checks find that the file of a killed save is incomplete."


def killed(run: Run) -> Outcome:
    """Kill a QEMU that is saving, check that nothing of it is left, then take a snapshot with a new QEMU."""
    begun = time.monotonic()
    folders = [run.folder / name for name in ("killed", "next")]
    for folder in folders:
        folder.mkdir()
    with writing_guest(replace(run, folder=folders[0])) as source:
        checks = _kill(run, source, folders[0] / "vmstate")
    with writing_guest(replace(run, folder=folders[1])) as source:
        cycle = snapshot_cycle(replace(run, folder=folders[1]), source, Flow.LIVE, "after")
        source.guest.machine.quit()
    checks += [replace(check, name=f"failures/next-qemu/{check.name}") for check in cycle.verdict.checks]
    run.discard(run.folder)
    holds = "A killed save left nothing behind, and the next QEMU's snapshot is right."
    return outcome_of(run, checks, time.monotonic() - begun, holds)


def _kill(run: Run, source: Source, path: Path) -> list[CheckResult]:
    machine = source.guest.machine
    if not isinstance(machine, SpawnedMachine):
        raise NotApplicable("Only a QEMU that the test has started may be killed.")
    migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
    migration.begin_save(machine, migration.exec_sink(path), run.deadline.at_most(SMALL_SAVE_SECONDS))
    run.say("Killing QEMU while it saves.")
    pid = machine.pid
    machine.kill()
    left, grown = _left_behind(pid, path)
    # If the save was over before the kill, the test proves nothing.
    whole = not check_file(path, agent_ran=True).violations
    problems = []
    if whole:
        problems.append(
            Problem(Code.KILLED_FILE_PASSES, "The file of the killed save passes every offline check.")
        )
    return [
        judged("failures/killed/left-behind", _LEFT, left_problems(left, grown)),
        judged("failures/killed/file", _FILE, problems),
    ]


def _left_behind(pid: int, path: Path) -> tuple[list[int], int]:
    """Return the processes of a killed QEMU that do not end, and by how many bytes its file still grows."""
    try:
        Deadline(LIMIT_SECONDS).wait_for(lambda: not session_members(pid), "The end of the sink")
    except DeadlineExpired:
        return session_members(pid), 0
    size = path.stat().st_size
    Deadline(_STILL_SECONDS * 2).nap(_STILL_SECONDS)
    return [], path.stat().st_size - size


def left_problems(processes: list[int], grown: int) -> list[Problem]:
    """Return a problem for the processes and for the growing file that a killed QEMU has left behind.

    Args:
        processes: ids of its processes that still run.
        grown: bytes by which its file has grown after the kill.
    """
    problems = []
    if processes:
        problems.append(
            Problem(
                Code.KILLED_PROCESSES_LEFT,
                f"{len(processes)} processes that the killed QEMU had started still run.",
            )
        )
    if grown:
        problems.append(
            Problem(
                Code.KILLED_FILE_GROWS,
                f"The file of the killed save has grown by {grown} bytes after its sink was gone.",
            )
        )
    return problems
