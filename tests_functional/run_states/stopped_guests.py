"""Takes snapshots of guests whose vCPUs stand still; their run state and memory must stay the same."""

from __future__ import annotations

import time
from collections.abc import Callable

from guest_images.agent.counters import AgentCounters
from harness.codes import Code
from harness.errors import NotApplicable, SubjectFailed
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.ram import dump_golden
from harness.qemu.virtio_driver import can_drive
from tests_functional.lib.build_outcome import outcome_of, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, writing_guest
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.restored_checks import ONWARDS
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot
from tests_functional.lib.source_checks import judge_source, judge_source_host
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from tests_functional.run_states.states import RUN_STATES, RunState, state_problems
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_AFTER = "A guest that did not run before the snapshot does not run after it."
_ENTER_SECONDS = 30.0


def run_state(name: str) -> Callable[[Run], Outcome]:
    """Return the scenario for one of RUN_STATES."""
    return lambda run: _in(run, RUN_STATES[name])


def _in(run: Run, state: RunState) -> Outcome:
    begun = time.monotonic()
    if state.by_ports and not can_drive(run.stack.image.architecture, run.stack.machine):
        raise NotApplicable(
            f"A guest becomes '{state.name}' through I/O ports here, which machine type "
            f"'{run.stack.machine}' does not have."
        )
    label = f"run-states/{state.name}"
    with writing_guest(run.with_arguments(state.arguments)) as source:
        machine = source.guest.machine
        with migration.capability_on(machine, migration.BACKGROUND_SNAPSHOT):
            run.say(f"Bringing the guest into the state '{state.name}'.")
            state.enter(source.guest, run.deadline.at_most(_ENTER_SECONDS))
            run.say(f"{state.name}: saving.")
            try:
                snapshot = _save(run, source.guest, source.counters, state)
            except SubjectFailed as error:
                failed = judged(f"{label}/after", _AFTER, [Problem.of_error(error)])
                return outcome_of(run, [failed], time.monotonic() - begun, _AFTER)
            checks = [_judge_after(machine, source.counters, snapshot, state)]
        checks += _judge_source(source, state)
        machine.quit()
        arguments = state.arguments if state.restored_arguments is None else state.restored_arguments
        cycle = judge_cycle(run.with_arguments(arguments), source, snapshot, label, checks)
    return outcome_of_cycles(run, [cycle], time.monotonic() - begun)


def _judge_source(source: Source, state: RunState) -> list[CheckResult]:
    """Make the guest go on, where one in its state can, and judge it and the host."""
    machine = source.guest.machine
    if state.name not in ONWARDS:
        return [judge_source_host(source.guest, source.before)]
    if machine.qmp.execute("query-status")["status"] == state.name:
        machine.qmp.execute(ONWARDS[state.name])
    return judge_source(source.guest, source.before)


def _save(run: Run, guest: Guest, counters: AgentCounters, state: RunState) -> Snapshot:
    machine, folder = guest.machine, run.folder / state.name
    folder.mkdir()
    golden, before = dump_golden(machine, folder / "golden"), counters.steps()
    path = folder / "vmstate"
    limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
    figures = migration.complete_save(machine, migration.exec_sink(path), limit)
    return Snapshot.unmeasured(Flow.STOPPED, path, golden, state.name, (before, counters.steps()), figures)


def _judge_after(
    machine: Machine, counters: AgentCounters, snapshot: Snapshot, state: RunState
) -> CheckResult:
    """Check that the save has changed neither the guest's run state nor its memory."""
    status = machine.qmp.execute("query-status")["status"]
    problems = state_problems(status, state.name)
    if not problems and counters.steps() != snapshot.steps_before:
        sentence = f"The guest is '{status}', and yet its writers wrote during the save."
        problems.append(Problem(Code.RUN_STATE_WROTE, sentence))
    return judged("after", _AFTER, problems)
