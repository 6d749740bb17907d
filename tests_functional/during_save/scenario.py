"""Saves a guest in the background through a slow sink, does a thing meanwhile, and judges all of it.

This is done with a guest that runs at T0, and then with one that is stopped there, of which there is a
golden image. The control is the same thing during an ordinary migration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, NotApplicable
from harness.process import session_members
from harness.qemu import migration
from harness.qemu.machine import known_pid
from harness.qemu.virtio_driver import can_drive
from harness.status import Status
from tests_functional.during_save.control import control
from tests_functional.during_save.judge import (
    Found,
    judge_answers,
    judge_end,
    judge_ended,
    judge_guest,
    judge_settings,
    no_worse,
    once_each,
    without_files_of,
)
from tests_functional.during_save.mid_save import MidSave, mid_save, quit_after
from tests_functional.during_save.thing import Place, Thing
from tests_functional.during_save.things import THINGS
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, judge_cycle, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.restored_checks import ONWARDS
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.judge import check_file
from validators.oracles.o5_source_guest.source_guest import check_unprotected
from validators.oracles.o6_host.host import check_host
from validators.oracles.o6_host.host_state import HostState, capture_host_state
from validators.verdict import CheckResult

_STALLS = "The sink is slow here, so that writers wait for protected pages by design."
_QUIT_SECONDS = 20.0
_HOLDS = "While RAM was saved, QEMU took it rightly: the save, its guest and its QEMU are as they must be."


def thing_done(name: str) -> Callable[[Run], Outcome]:
    """Return the scenario for one of THINGS."""
    return done(name, THINGS[name])


def done(name: str, thing: Thing) -> Callable[[Run], Outcome]:
    """Return the scenario for a thing, with the name that its checks have."""
    return lambda run: _run(run, name, thing)


def _run(run: Run, name: str, thing: Thing) -> Outcome:
    begun = time.monotonic()
    _require_ports(run)
    run = run.with_arguments(thing.arguments)
    ordinary = control(run, thing)
    found = _saved(run, thing, Flow.LIVE)
    excused = found.no_worse_than(ordinary.checks)
    checks = excused.named(f"during-save/{name}")
    if _takes_golden(thing, found):
        checks += _saved(run, thing, Flow.STOP_MIGRATE_CONT).named(f"during-save/{name}/golden")
    if all(check.status is not Status.FAIL for check in checks):
        run.discard(run.folder)
    figures = {"control": ordinary.words}
    outcome = outcome_of(run, checks, time.monotonic() - begun, _HOLDS, figures)
    reason = no_worse(found.live, excused.live)
    return outcome if not reason or outcome.status is not Status.PASS else _excused(outcome, reason)


def _excused(outcome: Outcome, reason: str) -> Outcome:
    """Return an outcome that is neither green nor red, since the control is as wrong."""
    return replace(outcome, status=Status.SKIP, sentence=reason)


def _require_ports(run: Run) -> None:
    """Check that the guest is a bare one whose devices the host drives.

    Raises:
        NotApplicable: it is not.
    """
    image, machine = run.stack.image, run.stack.machine
    if not image.bare or not can_drive(image.architecture, machine):
        raise NotApplicable(
            "This test plays the guest's part through I/O ports: it takes a bare guest on a machine type "
            f"that has them, and not the guest '{image.name}' on machine type '{machine}'."
        )


def _takes_golden(thing: Thing, found: Found) -> bool:
    """Return whether a save with a golden image says more: the live one gave a file, and all is right."""
    return bool(thing.state) and thing.ends == {"completed"} and not found.wrong


def _saved(run: Run, thing: Thing, flow: Flow) -> Found:
    """Save in the background by a flow and do the thing; return all checks."""
    folder = run.folder / flow.label
    folder.mkdir()
    with writing_guest(replace(run, folder=folder)) as source:
        machine = source.guest.machine
        thing.prepare(Place(source.guest, folder, _limit(run)))
        host = without_files_of(capture_host_state(machine), str(folder))
        with migration.capability_on(machine, migration.BACKGROUND_SNAPSHOT):
            run.say(f"Saving in the background, and meanwhile: {thing.reason}.")
            met = _mid_save(run, source, thing, folder / "vmstate", flow)
            if not thing.state:
                return Found([_judge_ended(run, source, met)])
            checks = [judge_answers(thing, met.place.answers), judge_end(thing, met.ending)]
            checks.append(judge_guest((thing.state,), met.ending))
            if met.ending.lost is not None:
                return Found(checks)
            checks.append(judge_settings(thing, *met.settings))
            thing.clean_up(Place(source.guest, folder, _limit(run)))
        return _judge_after(run, thing, source, met, host, checks)


def _judge_after(
    run: Run, thing: Thing, source: Source, met: MidSave, host: HostState, checks: list[CheckResult]
) -> Found:
    """Judge the source and the host, then the file, or the next save if this one gave none."""
    machine, folder = source.guest.machine, met.path.parent
    checks = [*checks, *_judge_source(thing, source, met, host)]
    if met.ending.status != "completed":
        if any(check.status is Status.FAIL for check in checks):
            return Found(checks)
        met = _next_save(run, source, folder)
        checks.append(replace(judge_end(THINGS["nothing"], met.ending), name="next-save"))
    snapshot = met.snapshot
    checks.append(quit_after(machine, run.stack.slowness))
    if snapshot is None:
        return Found(checks)
    run = replace(run, folder=folder)
    cycle = judge_cycle(run, source, snapshot, "judging", [], stalls_by_test=_STALLS)
    return Found(checks, [once_each(check) for check in cycle.verdict.checks])


def _judge_source(thing: Thing, source: Source, met: MidSave, host: HostState) -> list[CheckResult]:
    """Judge the host and, if the guest's writers must go on, the guest."""
    machine, folder = source.guest.machine, str(met.path.parent)
    found: Sequence[CheckResult] = (check_unprotected(machine),)
    if met.ending.state == thing.state and thing.same_guest:
        if thing.state in ONWARDS:
            machine.qmp.execute(ONWARDS[thing.state])
        # The host is judged below, without the files of the thing.
        found = judge_source(source.guest, source.before)[:-1]
    return [*found, check_host(host, without_files_of(capture_host_state(machine), folder))]


def _next_save(run: Run, source: Source, folder: Path) -> MidSave:
    """Save once more after a save that gave no file."""
    run.say("Saving once more.")
    with migration.capability_on(source.guest.machine, migration.BACKGROUND_SNAPSHOT):
        return _mid_save(run, source, THINGS["nothing"], folder / "next-vmstate")


def _mid_save(run: Run, source: Source, thing: Thing, path: Path, flow: Flow = Flow.LIVE) -> MidSave:
    limit = _limit(run)
    return mid_save(Place(source.guest, path.parent, limit), thing, path, source.counters, limit, flow)


def _judge_ended(run: Run, source: Source, met: MidSave) -> CheckResult:
    """Judge a QEMU that had to end in mid-save, and what it left."""
    machine = source.guest.machine
    pid = known_pid(machine)
    limit = Deadline(_QUIT_SECONDS * run.stack.slowness)
    exit_code = machine.pause(limit, limit.remaining())
    left: list[int] = []
    try:
        limit.wait_for(lambda: not session_members(pid), "The end of QEMU's session")
    except DeadlineExpired:
        left = session_members(pid)
    passes = met.path.exists() and check_file(met.path).status is Status.PASS
    return judge_ended(exit_code, left, passes)


def _limit(run: Run) -> Deadline:
    return run.deadline.at_most(SMALL_SAVE_SECONDS * run.stack.slowness)
