"""Takes snapshots of paused and suspended guests; their run state and memory must stay the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guest_images.agent.counters import AgentCounters
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.ram import dump_golden
from tests_functional.lib.build_outcome import outcome_of_cycles
from tests_functional.lib.cycle import judge_cycle, writing_guest
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_AFTER = "A guest that did not run before the snapshot does not run after it."
_ENTER_SECONDS = 30.0
# The command returns to us before the guest sleeps.
_FALL_ASLEEP = "(sleep 1; echo mem > /sys/power/state) > /dev/null 2>&1 &"


@dataclass(frozen=True)
class RunState:
    """A run state in which the guest's vCPUs are stopped.

    Attributes:
        name: as `query-status` gives it.
        reason: why it is tested.
        enter: brings a running guest into the state.
        leave: the QMP command that makes the guest go on.
    """

    name: str
    reason: str
    enter: Callable[[Guest, Deadline], None]
    leave: str


def _pause(guest: Guest, _deadline: Deadline) -> None:
    guest.machine.qmp.execute("stop")


def _suspend(guest: Guest, deadline: Deadline) -> None:
    """Have the guest suspend itself to RAM (ACPI S3).

    Raises:
        NotApplicable: the guest's kernel cannot suspend to RAM.
    """
    states = guest.shell.check("cat /sys/power/state").split()
    if "mem" not in states:
        raise NotApplicable(
            f"The guest's kernel cannot suspend to RAM, only: {' '.join(states) or 'nothing'}."
        )
    guest.shell.check(_FALL_ASLEEP)
    guest.machine.wait_status(lambda status: status == "suspended", deadline, "suspended")


RUN_STATES: Mapping[str, RunState] = {
    "paused": RunState(
        "paused", "management software stops a guest and expects it to stay stopped", _pause, "cont"
    ),
    "suspended": RunState(
        "suspended",
        "a guest that sleeps must stay asleep until it is woken up",
        _suspend,
        "system_wakeup",
    ),
}


def run_state(name: str) -> Callable[[Run], Outcome]:
    """Return the scenario for one of RUN_STATES."""
    return lambda run: _in(run, RUN_STATES[name])


def _in(run: Run, state: RunState) -> Outcome:
    begun = time.monotonic()
    with writing_guest(run) as source:
        machine = source.guest.machine
        with migration.capability_on(machine, migration.BACKGROUND_SNAPSHOT):
            run.say(f"Bringing the guest into the state '{state.name}'.")
            state.enter(source.guest, run.deadline.at_most(_ENTER_SECONDS))
            run.say(f"{state.name}: saving.")
            snapshot = _save(run, source.guest, source.counters, state)
            checks = [_judge_after(machine, source.counters, snapshot, state)]
        if machine.qmp.execute("query-status")["status"] == state.name:
            machine.qmp.execute(state.leave)
        checks += judge_source(source.guest, source.before)
        machine.quit()
        cycle = judge_cycle(run, source, snapshot, f"run-states/{state.name}", checks)
    return outcome_of_cycles(run, [cycle], time.monotonic() - begun)


def _save(run: Run, guest: Guest, counters: AgentCounters, state: RunState) -> Snapshot:
    machine, folder = guest.machine, run.folder / state.name
    folder.mkdir()
    golden, before = dump_golden(machine, folder / "golden"), counters.steps()
    path = folder / "vmstate"
    limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
    figures = migration.complete_save(machine, migration.exec_sink(path), limit)
    return Snapshot(
        flow=Flow.STOPPED,
        path=path,
        golden=golden,
        stun_ms=0.0,
        figures=figures,
        size_bytes=path.stat().st_size,
        largest_stall_us=0,
        largest_gap_us=0,
        state=state.name,
        steps_before=before,
        steps_completed=counters.steps(),
    )


def _judge_after(
    machine: Machine, counters: AgentCounters, snapshot: Snapshot, state: RunState
) -> CheckResult:
    """Check that the save has changed neither the guest's run state nor its memory."""
    status = machine.qmp.execute("query-status")["status"]
    problems = []
    if status != state.name:
        sentence = f"The guest is '{status}' after the snapshot, and was '{state.name}' before."
        problems.append(Problem(Code.RUN_STATE_CHANGED, sentence, {"state": status}))
    elif counters.steps() != snapshot.steps_before:
        sentence = f"The guest is '{status}', and yet its writers wrote during the save."
        problems.append(Problem(Code.RUN_STATE_WROTE, sentence))
    return judged("after", _AFTER, problems)
