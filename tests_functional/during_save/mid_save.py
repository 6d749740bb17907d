"""Starts a save through a slow sink, does a thing while RAM is saved, and waits for the end of the save."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guest_images.agent.counters import AgentCounters
from harness.deadline import Deadline
from harness.errors import MachineryMissing, NotApplicable, SetupBroken, SnapproofError, SubjectFailed
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.migration import SaveFigures
from harness.qemu.ram import GoldenImage
from tests_functional.during_save.judge import Ending, judge_quit
from tests_functional.during_save.thing import Place, Thing
from tests_functional.lib.save import Flow, Snapshot, begin_save
from tests_functional.refusals.migration_options import Settings, settings
from validators.verdict import CheckResult

ENDED = ("completed", "failed", "cancelled")
"""Statuses of a save that is over."""
_QUIT_SECONDS = 20.0
_NO_SETTINGS = Settings({}, {})


@dataclass(frozen=True)
class MidSave:
    """A save during which a thing was done.

    Attributes:
        place: where, with QEMU's answers.
        path: the file.
        ending: what became of it.
        settings: the migration settings before the thing, right after it, and after the save.
        snapshot: the snapshot, None where there is none.
    """

    place: Place
    path: Path
    ending: Ending
    settings: tuple[Settings, Settings, Settings] = (_NO_SETTINGS, _NO_SETTINGS, _NO_SETTINGS)
    snapshot: Snapshot | None = None


@dataclass(frozen=True)
class _Begun:
    """A save that has begun: RAM at T0, whether QEMU resumed the stopped guest, and steps after T0."""

    golden: GoldenImage | None
    started_by_itself: bool
    steps: tuple[int, ...]


def mid_save(
    place: Place,
    thing: Thing,
    path: Path,
    counters: AgentCounters,
    limit: Deadline,
    flow: Flow = Flow.LIVE,
    hasten: Callable[[Machine], None] = lambda _machine: None,
) -> MidSave:
    """Save, do a thing while RAM is saved, and wait until the save has ended.

    Args:
        place: the guest, and where the thing is done.
        thing: it.
        path: the file.
        counters: of the guest's writers.
        limit: for all of it.
        flow: LIVE, or STOP_MIGRATE_CONT for a golden image.
        hasten: called after the thing, before the wait for the end.

    Raises:
        SetupBroken: RAM was saved too fast for the thing to be done meanwhile.
        SubjectFailed: the save did not begin.
    """
    machine, slow = place.machine, path.with_name(f"{path.name}-slow")
    before, mark, steps = settings(machine), machine.qmp.mark(), counters.steps()
    try:
        with thing.sink(machine, path, slow) as uri:
            begun = _thing_done(place, thing, (flow, uri, slow), counters, limit)
            if not thing.state:
                return MidSave(place, path, Ending())
            done = settings(machine)
            hasten(machine)
            ending = wait_ending(machine, limit)
        three = (before, done, settings(machine))
        if ending.status != "completed":
            return MidSave(place, path, ending, three)
        figures = migration.wait_completed(machine, limit)
        # A reset guest may have overwritten its counters.
        completed = counters.steps() if thing.same_guest else begun.steps
        snapshot = _snapshot(machine, flow, path, begun, figures, mark, (steps, completed))
    except (MachineryMissing, NotApplicable, SetupBroken):
        raise
    except SnapproofError as error:
        return MidSave(place, path, Ending(lost=error))
    return MidSave(place, path, ending, three, snapshot)


def quit_after(machine: Machine, slowness: float) -> CheckResult:
    """Tell QEMU to quit, and judge how it ends."""
    limit = Deadline(_QUIT_SECONDS * slowness)
    # It may end before it has answered; its exit code says how.
    with contextlib.suppress(SubjectFailed):
        machine.qmp.execute("quit", deadline=limit)
    return judge_quit(machine.pause(limit, limit.remaining()))


def _thing_done(
    place: Place, thing: Thing, save: tuple[Flow, str, Path], counters: AgentCounters, limit: Deadline
) -> _Begun:
    """Begin a save and do the thing.

    Args:
        place: the guest, and where the thing is done.
        thing: it.
        save: the flow, the URI, and the file that makes the sink slow; it is deleted when the thing is done.
        counters: of the guest's writers.
        limit: for all of it.
    """
    machine, (flow, uri, slow) = place.machine, save
    slow.touch()
    try:
        golden, started_by_itself = begin_save(flow, machine, slow.parent, uri, limit)
        migration.wait_ram_moving(machine, limit)
        steps = await_write(machine, counters, limit)
        thing.do(place)
    finally:
        slow.unlink()
    return _Begun(golden, started_by_itself, steps)


def await_write(machine: Machine, counters: AgentCounters, limit: Deadline) -> tuple[int, ...]:
    """Wait until each writer has written a page after T0; return the writers' steps.

    Raises:
        SetupBroken: RAM was saved before that, so that nothing can be proven.
        SubjectFailed: the save has failed.
    """
    before = counters.steps()
    sentence = "The save was over before the guest had written a page, so this run proves nothing."
    while not limit.expired:
        migration.require_under_way(machine, sentence)
        now = counters.steps()
        if all(later > earlier for earlier, later in zip(before, now, strict=True)):
            return now
        machine.pause(limit)
    raise SetupBroken("The guest has not written a page while RAM was saved, so this run proves nothing.")


def wait_ending(machine: Machine, limit: Deadline) -> Ending:
    """Wait until a save has ended and QEMU has cleaned up, or until the time is over."""
    status, error = wait_over(machine, limit)
    if status in ENDED:
        migration.wait_cleaned_up(machine, limit)
    state = str(machine.qmp.execute("query-status")["status"])
    return Ending(status, error, state)


def wait_over(machine: Machine, limit: Deadline) -> tuple[str, str]:
    """Wait until a save is over or the time is; return its status and QEMU's reason, "" without one."""
    while True:
        answer = machine.query_migrate()
        status = str(answer.get("status", "none"))
        if status in ENDED or limit.expired:
            return status, str(answer.get("error-desc", ""))
        machine.pause(limit)


def _snapshot(
    machine: Machine,
    flow: Flow,
    path: Path,
    begun: _Begun,
    figures: SaveFigures,
    mark: int,
    steps: tuple[tuple[int, ...], tuple[int, ...]],
) -> Snapshot:
    stun = migration.find_stun(machine, mark)
    return Snapshot(
        flow=flow,
        path=path,
        golden=begun.golden,
        stun_ms=stun.seconds * 1000 if stun else 0.0,
        figures=figures,
        size_bytes=path.stat().st_size,
        largest_stall_us=0,
        largest_gap_us=0,
        state=flow.state_at_t0,
        steps_before=steps[0],
        steps_completed=steps[1],
        started_by_itself=begun.started_by_itself,
    )
