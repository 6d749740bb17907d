"""Restore a snapshot into a new QEMU and judge it by oracle 3."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guest_images.agent.client import AgentStatus
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import HostTooBusy, MachineryMissing, SnapproofError
from harness.linux.run_queue import LEAST_GRANTED, processor_time
from harness.qemu import migration
from harness.qemu.decrementer import lost_decrementer
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.lib.guest import Guest, Stack, logged_in
from tests_functional.lib.save import Snapshot, restore_uri
from validators.checks import Problem, judged
from validators.oracles.o3_restored_guest.restored_guest import check_restored_guest, check_run_state
from validators.verdict import T0, CheckResult

_RESTORE = "A new QEMU takes the file, runs the guest, and the guest answers."

ONWARDS = {
    "paused": "cont",
    "suspended": "system_wakeup",
    "prelaunch": "cont",
    "guest-panicked": "cont",
    "watchdog": "cont",
    "io-error": "cont",
}
"""The QMP command that makes a guest in a run state go on."""
# QEMU monitor/qmp-cmds.c qmp_cont() refuses to continue a guest in it.
_OFF = "shutdown"
# Of a guest that does not answer, or no longer.
_LATE = (Code.WAIT_EXPIRED, Code.GUEST_NO_ANSWER, Code.GUEST_COMMAND_UNFINISHED)


def no_more(_guest: Guest) -> list[CheckResult]:
    """Further checks where there are none."""
    return []


def judge_restored(
    stack: Stack,
    snapshot: Snapshot,
    source: AgentStatus,
    t0: T0 | None,
    folder: Path,
    deadline: Deadline,
    further: Callable[[Guest], list[CheckResult]] = no_more,
) -> list[CheckResult]:
    """Restore a snapshot into a new QEMU and check the guest from inside.

    Args:
        stack: what the snapshot was taken on.
        snapshot: what to restore.
        source: the agent's status in the source guest.
        t0: as found in the file, None where it was not.
        folder: for the logs of the new QEMU.
        deadline: for all of it.
        further: checks of the restored guest beyond its memory.

    Returns:
        Check results. An error is a failed check too, since the same guest image works in the source.

    Raises:
        MachineryMissing: as it says.
        HostTooBusy: the guest is late, and its QEMU got little of the processors.
    """
    config, state = stack.machine_config(snapshot.disk), ""
    try:
        with SpawnedMachine(config, folder, incoming=True) as machine:
            begun = time.monotonic()
            state = migration.restore(machine, restore_uri(machine, snapshot), deadline)
            loaded = time.monotonic()
            if state in ONWARDS:
                machine.qmp.execute(ONWARDS[state])
            checks = []
            if snapshot.state != _OFF:
                with _late_explained(machine), logged_in(machine, stack, deadline) as guest:
                    slept = snapshot.state == "suspended"
                    checks += check_restored_guest(guest.agent, source, t0, begun, slept, deadline)
                    checks += further(guest)
            machine.quit()
    except (HostTooBusy, MachineryMissing):
        raise
    except SnapproofError as error:
        problem = Problem.of_error(error, f"The restored guest failed: {error.sentence}")
        failed = judged("restore", _RESTORE, [problem])
        return [failed, check_run_state(state, snapshot.state)] if state else [failed]
    seconds = {"load_seconds": round(loaded - begun, 3)}
    return [judged("restore", _RESTORE, [], seconds), check_run_state(state, snapshot.state), *checks]


def _lost_seconds(machine: SpawnedMachine) -> float:
    """Return what `lost_decrementer` says, 0.0 where QEMU does not answer."""
    try:
        return lost_decrementer(machine)
    except SnapproofError:
        return 0.0


@contextmanager
def _late_explained(machine: SpawnedMachine) -> Iterator[None]:
    """Explain a guest that is late within the `with`, by its timer or by the host.

    The host is to blame if QEMU got too little processor time, but it loses no interrupt of a timer.
    """
    try:
        yield
    except SnapproofError as error:
        if error.code not in _LATE or not machine.alive():
            raise
        if seconds := _lost_seconds(machine):
            raise machine.failure(
                f"{error.sentence.rstrip('.')}, and its decrementer expired {seconds:.0f} s ago and raised "
                "no interrupt, so none of its timers fires",
                Code.RESTORED_TIMER_LOST,
            ) from error
        got = processor_time(machine.pid)
        if error.code is Code.GUEST_COMMAND_UNFINISHED or got.granted >= LEAST_GRANTED:
            raise
        raise HostTooBusy(
            f"{error.sentence.rstrip('.')}, and the restored guest's QEMU got {got.granted:.0%} of the "
            "processor time that it wanted, which says nothing about the snapshot; run less beside it.",
            error.evidence,
        ) from error
