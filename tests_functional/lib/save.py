"""Saves a guest by one of the flows, and returns the snapshot with its stun and other costs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from guest_images.agent.counters import AgentCounters
from harness.codes import Code
from harness.deadline import Deadline
from harness.guest.shell import GuestUnreachable
from harness.linux.processes import thread_names
from harness.linux.run_queue import ThreadReading, sampled_threads
from harness.qemu import migration
from harness.qemu.disk import Disk
from harness.qemu.kept_disk import disk_of_snapshot
from harness.qemu.machine import Machine
from harness.qemu.migration import SaveFigures, Stun
from harness.qemu.ram import GoldenImage, dump_golden
from tests_functional.lib import stalls
from tests_functional.lib.guest import Guest

_NO_FIGURES = SaveFigures(0, 0, 0, 0)
_LABELS = {"STOP_MIGRATE_CONT": "seeds", "STOP_MIGRATE_CONT_FILE": "seeds-file"}


class Flow(enum.Enum):
    """How a snapshot is taken."""

    LIVE = "background, running guest, exec:cat"
    LIVE_FILE = "background, running guest, file:"
    STOPPED = "background, guest that does not run, exec:cat"
    STOP_MIGRATE_CONT = "background, stop + migrate + cont, exec:cat"
    STOP_MIGRATE_CONT_FILE = "background, stop + migrate + cont, file:"
    STOP_AND_SAVE = "stop-and-save, no capability"
    # Stopped, because background-snapshot loses all RAM in a mapped-ram file (docs/findings.md, F2).
    MAPPED_RAM = "stop-and-save, mapped-ram, file:"

    @property
    def label(self) -> str:
        """Return the flow's name in the labels of results, e.g. ``seeds`` in ``02-seeds``.

        Two flows keep their old names in results, so that old and new runs can be compared.
        """
        return _LABELS.get(self.name) or self.name.lower().replace("_", "-")

    @property
    def capability(self) -> str | None:
        """The migration capability that it needs."""
        if self is Flow.MAPPED_RAM:
            return migration.MAPPED_RAM
        return None if self is Flow.STOP_AND_SAVE else migration.BACKGROUND_SNAPSHOT

    @property
    def background(self) -> bool:
        """Whether the guest runs while its RAM is saved."""
        return self.capability == migration.BACKGROUND_SNAPSHOT and self is not Flow.STOPPED

    @property
    def golden(self) -> bool:
        """Whether guest RAM is dumped while the guest is stopped at T0."""
        return self not in (Flow.LIVE, Flow.LIVE_FILE, Flow.STOP_AND_SAVE)

    @property
    def state_at_t0(self) -> str:
        """The guest's run state that the file holds, and that a restore must bring back."""
        return "running" if self in (Flow.LIVE, Flow.LIVE_FILE) else "paused"


@dataclass(frozen=True)
class Snapshot:
    """A completed save and what it cost.

    Attributes:
        flow: how it was taken.
        path: the vmstate file.
        golden: RAM at T0, where the flow stops the guest.
        stun_ms: STOP to RESUME by QMP event time. Where there is a golden image it covers the dump
            too and says nothing about QEMU.
        figures: QEMU's own downtime, total time and page counts.
        size_bytes: of the file.
        largest_stall_us: longest page write the guest saw since just before the save.
        largest_gap_us: longest time that one of its writers stalled after T0, for any reason.
        gap_waited_us: how much of it QEMU's threads waited for a processor of the host.
        state: the guest's run state at T0, which a restore must bring back.
        steps_before: writer steps per thread just before the save was asked for.
        steps_completed: writer steps per thread at the instant it had completed.
        started_by_itself: QEMU resumed a guest that was stopped before the save.
        incoming: capabilities that must be on to restore it.
        disk: the guest's disk at T0, if it has one.
    """

    flow: Flow
    path: Path
    golden: GoldenImage | None
    stun_ms: float
    figures: SaveFigures
    size_bytes: int
    largest_stall_us: int
    largest_gap_us: int
    state: str
    steps_before: tuple[int, ...]
    steps_completed: tuple[int, ...]
    started_by_itself: bool = False
    incoming: tuple[str, ...] = ()
    disk: Disk | None = None
    gap_waited_us: int = 0

    @classmethod
    def unmeasured(
        cls,
        flow: Flow,
        path: Path,
        golden: GoldenImage | None,
        state: str,
        steps: tuple[tuple[int, ...], tuple[int, ...]],
        figures: SaveFigures = _NO_FIGURES,
    ) -> Self:
        """Return a snapshot whose cost for the guest was not measured.

        Args:
            flow: how it was taken.
            path: the vmstate file.
            golden: RAM at T0, where there is an image.
            state: the guest's run state at T0.
            steps: writer steps per thread before the save, and once it had completed.
            figures: QEMU's own, zeros if it was not asked.
        """
        return cls(
            flow=flow,
            path=path,
            golden=golden,
            stun_ms=0.0,
            figures=figures,
            size_bytes=path.stat().st_size,
            largest_stall_us=0,
            largest_gap_us=0,
            state=state,
            steps_before=steps[0],
            steps_completed=steps[1],
        )


@dataclass(frozen=True)
class Acts:
    """What a test does during a save.

    Attributes:
        at_t0: called while the guest is stopped at T0, in flows that stop it; None for nothing.
        saving: called after T0 while RAM is being saved. Until it returns, a slow sink takes 4 MiB/s in place
            of the flow's own sink. None for nothing.
    """

    at_t0: Callable[[], None] | None = None
    saving: Callable[[], None] | None = None


_NO_ACTS = Acts()
# The sink of a save with acts is slow while this file exists.
_SLOW = "slow"


def take(
    flow: Flow, guest: Guest, counters: AgentCounters, folder: Path, deadline: Deadline, acts: Acts = _NO_ACTS
) -> Snapshot:
    """Save a guest whose writers run.

    Args:
        flow: how.
        guest: its writers must be running.
        counters: its writers'.
        folder: receives `vmstate` and, where the flow has one, `golden/`.
        deadline: for the whole save.
        acts: what is done meanwhile.

    Raises:
        NotApplicable: this QEMU or host has no such capability or transport.
        SubjectFailed: QEMU failed the save, died, or hung.
        SetupBroken: the guest has written to a disk that should have been at rest.
    """
    if not flow.capability:
        return save(flow, guest, counters, folder, deadline, acts)
    with migration.capability_on(guest.machine, flow.capability):
        return save(flow, guest, counters, folder, deadline, acts)


def save(
    flow: Flow, guest: Guest, counters: AgentCounters, folder: Path, deadline: Deadline, acts: Acts = _NO_ACTS
) -> Snapshot:
    """Save as `take` does, but leave the capabilities as they are; the arguments and errors are the same.

    Raises:
        CommandRefused: QEMU does not start the save.
    """
    stalls.begin(guest, counters)
    with sampled_threads(guest.machine.pid) as readings:
        return _save(flow, guest, counters, folder, deadline, acts, readings)


def _save(
    flow: Flow,
    guest: Guest,
    counters: AgentCounters,
    folder: Path,
    deadline: Deadline,
    acts: Acts,
    readings: Sequence[ThreadReading],
) -> Snapshot:
    machine, path = guest.machine, folder / "vmstate"
    before, mark = counters.steps(), machine.qmp.mark()
    if acts.saving:
        (folder / _SLOW).touch()
    uri = migration.slow_sink(path, folder / _SLOW) if acts.saving else _uri(flow, path)
    golden, started_by_itself = begin_save(flow, machine, folder, uri, deadline, acts.at_t0)
    if acts.saving:
        _act_while_saving(machine, acts.saving, folder / _SLOW, deadline)
    figures = migration.wait_completed(machine, deadline)
    completed = counters.steps()
    names = thread_names(machine.pid) if machine.pid else {}
    if not flow.background:
        machine.qmp.execute("cont")
    machine.wait_status(lambda status: status == "running", deadline.at_most(10), "running again")
    stun = _stun(machine, mark)
    stalled = stalls.end(counters, stun.resumed, readings, names)
    _require_answer(guest)
    return Snapshot(
        flow=flow,
        path=path,
        golden=golden,
        stun_ms=stun.seconds * 1000,
        figures=figures,
        size_bytes=path.stat().st_size,
        largest_stall_us=stalled.stall_us,
        largest_gap_us=stalled.gap_us,
        state=flow.state_at_t0,
        steps_before=before,
        steps_completed=completed,
        started_by_itself=started_by_itself,
        incoming=(migration.MAPPED_RAM,) if flow is Flow.MAPPED_RAM else (),
        disk=disk_of_snapshot(machine),
        gap_waited_us=stalled.waited_us,
    )


def _act_while_saving(machine: Machine, act: Callable[[], None], slow: Path, deadline: Deadline) -> None:
    """Do what a test does while RAM is saved; then the sink, slow until now, saves the rest."""
    try:
        migration.wait_ram_moving(machine, deadline)
        act()
    finally:
        slow.unlink()


def begin_save(
    flow: Flow,
    machine: Machine,
    folder: Path,
    uri: str,
    deadline: Deadline,
    at_t0: Callable[[], None] | None = None,
) -> tuple[GoldenImage | None, bool]:
    """Start a save by a flow, whose capability is on.

    Args:
        flow: how.
        machine: the QEMU, whose guest runs.
        folder: receives `golden/`, where the flow has a golden image.
        uri: where the state is sent.
        deadline: for the beginning of a save of a stopped guest.
        at_t0: called while the guest is stopped at T0, in flows that stop it.

    Returns:
        The golden image if there is one, and whether QEMU resumed a stopped guest by itself.
    """
    if flow in (Flow.LIVE, Flow.LIVE_FILE):
        migration.start_save(machine, uri)
        return None, False
    if not flow.background:
        migration.lift_bandwidth_limit(machine)
    machine.qmp.execute("stop")
    golden = dump_golden(machine, folder / "golden") if flow.golden else None
    if at_t0:
        at_t0()
    if flow.background:
        return golden, _migrate_and_continue(machine, uri, deadline)
    migration.start_save(machine, uri)
    return golden, False


def restore_uri(machine: Machine, snapshot: Snapshot) -> str:
    """Set the capabilities that a snapshot needs; return the URI to load it from.

    Raises:
        NotApplicable: this QEMU cannot read such a file.
    """
    for name in snapshot.incoming:
        migration.require_capability(machine, name)
    # Only a file that QEMU opens itself can be read at any offset.
    if migration.MAPPED_RAM in snapshot.incoming:
        return migration.file_uri(snapshot.path)
    return migration.exec_source(snapshot.path)


def sample_stun(guest: Guest, deadline: Deadline) -> float:
    """Take a live save into /dev/null; return its stun in ms.

    Raises:
        NotApplicable: this QEMU or host has no background-snapshot.
        SubjectFailed: QEMU failed the save, died, or hung.
    """
    machine = guest.machine
    with migration.capability_on(machine, migration.BACKGROUND_SNAPSHOT):
        mark = machine.qmp.mark()
        migration.complete_save(machine, migration.exec_sink(Path("/dev/null")), deadline)
        return _stun(machine, mark).seconds * 1000


def _stun(machine: Machine, mark: int) -> Stun:
    stun = migration.find_stun(machine, mark)
    if stun is None:
        raise machine.failure("QEMU did not send STOP and RESUME around T0", Code.SAVE_NO_STUN)
    return stun


def _require_answer(guest: Guest) -> None:
    """Check that the agent answers after a completed save; a guest that hangs now was hung by the save."""
    try:
        guest.agent.status()
    except GuestUnreachable as error:
        why = error.sentence.rstrip(".")
        raise guest.machine.failure(
            f"QEMU calls the save completed and the guest running, but that does not answer: {why}",
            Code.SAVE_GUEST_SILENT,
            {**error.fields, "error": error.code},
        ) from error


def _uri(flow: Flow, path: Path) -> str:
    """Return the migration URI of a flow."""
    by_qemu = flow in (Flow.LIVE_FILE, Flow.STOP_MIGRATE_CONT_FILE, Flow.MAPPED_RAM)
    return migration.file_uri(path) if by_qemu else migration.exec_sink(path)


def _migrate_and_continue(machine: Machine, uri: str, deadline: Deadline) -> bool:
    """Save a stopped guest and continue it; return whether QEMU had already resumed it by itself."""
    migration.begin_save(machine, uri, deadline)
    # QEMU 6.0 to 8.1 resume the guest whatever it was before; later ones leave it stopped.
    started_by_itself = bool(machine.qmp.execute("query-status")["status"] == "running")
    if not started_by_itself:
        machine.qmp.execute("cont")
    return started_by_itself
