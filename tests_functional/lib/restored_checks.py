"""Oracle 3: the restored guest is alive, is the same guest, remembers its memory, and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from guest_images.agent.client import AgentStatus, VerifyReport
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import MachineryMissing, SnapproofError
from harness.qemu import migration
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.lib.checks import Problem, judged
from tests_functional.lib.guest import Guest, Stack, logged_in
from tests_functional.lib.save import Snapshot, restore_uri
from validators.verdict import T0, CheckResult

_RESTORE = "A new QEMU takes the file, runs the guest, and the guest answers over SSH."
_STATE = "The restored guest is in the run state it had at T0."
_IDENTITY = "The restored guest is the same boot of the same guest."
_CLOCK = "The guest's clock goes on from T0, neither back nor ahead."
_MEMORY = "The agent finds all of its memory as its step counts imply."
_GOES_ON = "The writers go on."

# Heartbeat every 10 ms, and a busy TCG guest may be late with it.
_CLOCK_SLACK_SECONDS = 2.0
_MORE_STEPS = 200
# How a guest in that run state is made to go on.
_ONWARDS = {"paused": "cont", "suspended": "system_wakeup"}
_GOES_ON_SECONDS = 30.0


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
        Check results. Whatever goes wrong here is a failed check, since the same guest image works
        in the source.
    """
    config, state = stack.machine_config(snapshot.disk), ""
    try:
        with SpawnedMachine(config, folder, incoming=True) as machine:
            begun = time.monotonic()
            state = migration.restore(machine, restore_uri(machine, snapshot), deadline)
            loaded = time.monotonic()
            if state in _ONWARDS:
                machine.qmp.execute(_ONWARDS[state])
            with logged_in(machine, stack, deadline) as guest:
                checks = _look_inside(guest, snapshot, source, t0, begun, deadline)
                checks += further(guest)
            machine.quit()
    except MachineryMissing:
        raise
    except SnapproofError as error:
        problem = Problem.of_error(error, f"The restored guest failed: {error.sentence}")
        failed = judged("restore", _RESTORE, [problem])
        return [failed, _run_state(state, snapshot)] if state else [failed]
    seconds = {"load_seconds": round(loaded - begun, 3)}
    return [judged("restore", _RESTORE, [], seconds), _run_state(state, snapshot), *checks]


def _run_state(state: str, snapshot: Snapshot) -> CheckResult:
    problems = []
    if state != snapshot.state:
        problems.append(
            Problem(
                Code.RESTORED_RUN_STATE,
                f"The restored guest is '{state}', at T0 it was '{snapshot.state}'.",
                {"state": state, "before": snapshot.state},
            )
        )
    return judged("restored-state", _STATE, problems)


def _look_inside(
    guest: Guest,
    snapshot: Snapshot,
    source: AgentStatus,
    t0: T0 | None,
    begun: float,
    deadline: Deadline,
) -> list[CheckResult]:
    status = guest.agent.status()
    elapsed = time.monotonic() - begun
    guest.agent.pause()
    report = guest.agent.verify()
    guest.agent.resume()
    return [
        _identity(status, source),
        _clock(status, source, t0, elapsed, slept=snapshot.state == "suspended"),
        _memory(report, source, guest.agent.status().errors),
        _goes_on(guest, deadline),
    ]


def _identity(status: AgentStatus, source: AgentStatus) -> CheckResult:
    problems = []
    if status.boot_id != source.boot_id:
        problems.append(
            Problem(
                Code.RESTORED_BOOT_ID,
                f"The restored guest has boot id {status.boot_id}, the source had {source.boot_id}.",
            )
        )
    if status.nonce != source.nonce:
        problems.append(
            Problem(Code.RESTORED_AGENT, "The restored guest runs another agent than the source did.")
        )
    if status.state != "running":
        problems.append(
            Problem(
                Code.RESTORED_WRITERS_STATE,
                f"The restored guest's writers are '{status.state}', at T0 they were running.",
                {"state": status.state},
            )
        )
    return judged("restored-identity", _IDENTITY, problems)


def _clock(
    status: AgentStatus, source: AgentStatus, t0: T0 | None, elapsed: float, slept: bool
) -> CheckResult:
    if t0 is None:
        unknown = Problem(Code.RESTORED_NO_T0, "The guest's time at T0 was not found in the file.")
        return judged("restored-clock", _CLOCK, [unknown])
    ran = (status.monotonic_ns - t0.monotonic_ns) / 1e9
    offset = (status.realtime_ns - status.monotonic_ns) - (source.realtime_ns - source.monotonic_ns)
    problems = []
    if ran < 0:
        problems.append(
            Problem(
                Code.RESTORED_CLOCK_BACK, f"The restored guest's clock went back by {-ran:.3f} s behind T0."
            )
        )
    if ran > elapsed + _CLOCK_SLACK_SECONDS:
        problems.append(
            Problem(
                Code.RESTORED_CLOCK_AHEAD,
                f"The restored guest's clock is {ran:.3f} s past T0, {elapsed:.3f} s after its restore.",
            )
        )
    # While a guest sleeps, its hardware clock goes on, and is what it sets its wall clock by.
    if (-offset if slept else abs(offset)) / 1e9 > _CLOCK_SLACK_SECONDS:
        problems.append(
            Problem(
                Code.RESTORED_WALL_CLOCK,
                f"The restored guest's wall clock moved by {offset / 1e9:.3f} s against its uptime.",
            )
        )
    return judged("restored-clock", _CLOCK, problems, {"guest_ran_seconds": round(ran, 3)})


def _memory(report: VerifyReport, source: AgentStatus, found_by_writers: int) -> CheckResult:
    problems = [
        Problem(
            Code.RESTORED_WRONG_PAGE,
            f"In the restored guest page {found['index']} of thread {found['thread']} (guest page frame "
            f"{found['pfn']:#x}) holds generation {found['found_generation']} instead of "
            f"{found['expected_generation']}.",
        )
        for found in report.mismatches
    ]
    if found_by_writers:
        # They check each page before they overwrite it, and by now they may have overwritten it.
        problems.append(
            Problem(
                Code.RESTORED_OVERWRITTEN_PAGE,
                f"The writers found {found_by_writers} wrong pages when they came to overwrite them.",
            )
        )
    if report.mismatch_count and not problems:
        sentence = f"{report.mismatch_count} pages are wrong in the restored guest."
        problems.append(Problem(Code.RESTORED_WRONG_PAGE, sentence))
    if report.pages_checked < source.data_pages:
        problems.append(
            Problem(
                Code.RESTORED_UNCHECKED_PAGE,
                f"Only {report.pages_checked} of {source.data_pages} pages could be checked.",
            )
        )
    facts: dict[str, int | float | str] = {
        "pages": report.pages_checked,
        "checksums": " ".join(report.checksums),
    }
    return judged("restored-memory", _MEMORY, problems, facts)


def _goes_on(guest: Guest, deadline: Deadline) -> CheckResult:
    before = guest.agent.status()
    limit = deadline.at_most(_GOES_ON_SECONDS)
    while True:
        after = guest.agent.status()
        least = min(now - then for now, then in zip(after.steps, before.steps, strict=True))
        if least >= _MORE_STEPS or limit.expired:
            break
        limit.nap(0.05)
    problems = []
    if least < _MORE_STEPS:
        problems.append(
            Problem(
                Code.RESTORED_WRITERS_STALLED,
                f"A writer made only {least} steps in {limit.seconds:.0f} s after the restore.",
            )
        )
    return judged("restored-goes-on", _GOES_ON, problems, {"steps": sum(after.steps) - sum(before.steps)})
