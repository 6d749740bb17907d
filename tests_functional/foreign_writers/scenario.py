"""Has a foreign writer write guest RAM while it is saved, and looks for its writes in the file.

The writer marks its pages in one pass before T0 and in another one after it. The file must have the marks of
the first pass and none of the second. Stop-and-save, during which the guest stands still, is the control.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, NotApplicable, SetupBroken, SnapproofError
from harness.linux.socket_folder import socket_folder
from harness.process import log_tail
from harness.qemu.architectures import MachineType
from harness.qemu.board import Board
from harness.qemu.configuration import MIB, QEMU_LOG, qemu_quoted, type_of
from harness.qemu.machine import Machine
from harness.qemu.memory_tree import bytes_behind_main, find_ram
from harness.qemu.qmp import CommandRefused
from tests_functional.foreign_writers.disk_reads import make_disk
from tests_functional.foreign_writers.judge import judge_marks, judge_restored_writer
from tests_functional.foreign_writers.kinds import WRITER_KINDS, Place, Writer, WriterKind, all_arguments
from tests_functional.foreign_writers.marks import Marks
from tests_functional.foreign_writers.target import Target
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, resting, writing_guest
from tests_functional.lib.daemons import Service, served
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.refused_save import judge_refused_save
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, Snapshot, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from tests_functional.memory.kinds import MEMORY_KINDS
from validators.oracles.o6_host.host_state import capture_host_state
from validators.verdict import CheckResult

_FLOWS = (Flow.STOP_AND_SAVE, Flow.STOP_MIGRATE_CONT, Flow.LIVE)
_PASS_SECONDS, _FIRST_PASS = 60.0, 0
_STALLS = "QEMU holds up the vCPUs while a device waits for protected pages, and this test writes many."
# QEMU 10.0 block/file-posix.c, of io_uring and of Linux' native AIO.
_FALL_BACK = "falling back to thread pool"
# The target and what no vCPU's writer has are in the last MiB of RAM, which QEMU saves in ascending order.
_LEAST_OF_MAIN = 8 * MIB


@dataclass(frozen=True)
class _Passes:
    """The passes of one snapshot: one before T0, the next one after it."""

    before: int

    @property
    def after(self) -> int:
        return self.before + 1


def _no_damage(_path: Path, _marks: Marks, _control: int) -> None:
    """Leave a file as it is."""


def _no_act(_machine: Machine, _target: Target) -> None:
    """Leave a QEMU as it is."""


@dataclass(frozen=True)
class Faults:
    """Faults that are planted in a run; by default none.

    Attributes:
        in_file: is given each vmstate file before it is judged, the marks, and the address of the control
            pages.
        live: is given QEMU and the target pages when RAM is being saved in the background, before the writer
            writes to them.
    """

    in_file: Callable[[Path, Marks, int], None] = _no_damage
    live: Callable[[Machine, Target], None] = _no_act


_NO_FAULTS = Faults()


def foreign_writer(name: str, faults: Faults = _NO_FAULTS) -> Callable[[Run], Outcome]:
    """Return the scenario for one of WRITER_KINDS.

    Args:
        name: the writer's.
        faults: are planted in the run; by default none.
    """
    return lambda run: _with(run, name, WRITER_KINDS[name], faults)


def _with(run: Run, name: str, kind: WriterKind, faults: Faults) -> Outcome:
    begun = time.monotonic()
    board_kind = require_board(run)
    if not kind.runs_on(board_kind):
        raise NotApplicable(
            f"Machine type '{run.stack.machine}' has no {kind.needs.value} that this writer needs."
        )
    if lacking := kind.lacking(run.stack.executable):
        raise NotApplicable(f"This QEMU has no {lacking}.")
    if kind.shared_ram:
        run = replace(run, stack=MEMORY_KINDS["memfd-shared"].stack(run.stack))
    marks, cycles = Marks(), []
    with _places(run, marks, board_kind) as places:
        here = places[0]
        with (
            _served(run, kind, here) as service,
            writing_guest(run.with_arguments(all_arguments(kind, here))) as booted,
            service.blamed(),
        ):
            machine = booted.guest.machine
            board = Board(machine, here.kind, here.socket)
            target = kind.target(board)
            writer = kind.writer(board, target, here)
            writer.start()
            writer.offer(_FIRST_PASS)
            writer.write(_FIRST_PASS, Deadline(_PASS_SECONDS))
            _require_io(machine)
            # A device opens more files with its first request.
            source = replace(booted, before=replace(booted.before, host=capture_host_state(machine)))
            for number, (flow, restored) in enumerate(zip(_FLOWS, places[1:], strict=True)):
                cycle = _Cycle(run, kind, marks, _Passes(1 + 2 * number), restored, faults)
                label = f"{name}/{number + 1:02d}-{flow.label}"
                try:
                    cycles.append(cycle.judge(source, writer, target, flow, label))
                except CommandRefused as refusal:
                    if cycles or not kind.may_refuse:
                        raise
                    seconds = time.monotonic() - begun
                    return judge_refused_save(run, source, kind.device, refusal.reason, label, seconds)
                service.require_alive()
            machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun, compare_stuns=False)


def require_board(run: Run) -> MachineType:
    """Return the machine type of a run.

    Raises:
        NotApplicable: the host cannot drive devices on it, or something else uses their pages.
    """
    image, name = run.stack.image, run.stack.machine
    found = image.architecture.machine_type(type_of(name))
    if not image.bare or found is None or not (found.config_ports or found.virtio_mmio):
        raise NotApplicable(
            f"The host drives the devices of a bare guest here, which it cannot on machine type '{name}'."
        )
    return found


@dataclass(frozen=True)
class _Cycle:
    run: Run
    kind: WriterKind
    marks: Marks
    passes: _Passes
    restored: Place
    faults: Faults = _NO_FAULTS

    def judge(self, source: Source, writer: Writer, target: Target, flow: Flow, label: str) -> Cycle:
        """Write a pass, save the guest while the next one is written, restore it, and judge all of it."""
        run, passes = self.run, self.passes
        writer.offer(passes.before)
        writer.write(passes.before, Deadline(_PASS_SECONDS))
        self._require_written(target, writer.pages, passes.before, "before T0")
        writer.offer(passes.after)
        folder = run.folder / label
        folder.mkdir(parents=True)
        run.say(f"{label}: saving ({flow.value}).")

        def write() -> None:
            if flow.background:
                self.faults.live(source.guest.machine, target)
            writer.write(passes.after, run.deadline.at_most(_PASS_SECONDS))
            self._require_written(target, writer.pages, passes.after, "after T0")
            if flow.background:
                _require_early(source.guest.machine)

        limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
        during = flow.background or not self.kind.stoppable
        acts = Acts(saving=write) if during else Acts()
        snapshot = take(flow, source.guest, source.counters, folder, limit, acts)
        if not during:
            write()
        self.faults.in_file(snapshot.path, self.marks, target.control)
        checks = judge_source(source.guest, source.before)
        with resting(run.stack, source.guest.machine, checks):
            checks.append(self._judge_file(snapshot, writer.pages))
            restoring = run.with_arguments(all_arguments(self.kind, self.restored))
            with _served(run, self.kind, self.restored) as service:
                crashes: list[SetupBroken | None] = []

                def look(guest: Guest) -> list[CheckResult]:
                    found = self._look(guest)
                    crashes.append(service.crash(qemu_runs=guest.machine.alive()))
                    return found

                cycle = judge_cycle(restoring, source, snapshot, label, checks, look, _STALLS)
                # Not raised before: the errors of a restored guest are taken for QEMU's.
                for crash in (*crashes, service.crash(qemu_runs=False)):
                    if crash:
                        raise crash
                return cycle

    def _require_written(self, target: Target, pages: int, number: int, when: str) -> None:
        """Check that a pass was written to its end.

        Raises:
            SetupBroken: it was not.
        """
        found = target.passes(self.marks, pages).count(number)
        if found != pages:
            raise SetupBroken(
                f"The foreign writer wrote {found} of {pages} pages {when}, so this run proves nothing."
            )

    def _judge_file(self, snapshot: Snapshot, pages: int) -> CheckResult:
        return judge_marks(self.marks.in_file(snapshot.path), self.passes.before, pages)

    def _look(self, guest: Guest) -> list[CheckResult]:
        """Let the restored guest's writer go on, and judge what it writes."""
        board = Board(guest.machine, self.restored.kind, self.restored.socket)
        target, after = self.kind.target(board), self.passes.after
        writer = self.kind.writer(board, target, self.restored)
        error: SnapproofError | None = None
        try:
            writer.write(after, self.run.deadline.at_most(_PASS_SECONDS))
        except (DeadlineExpired, SetupBroken) as broken:
            error = broken
        return [judge_restored_writer(target.passes(self.marks, writer.pages), after, error)]


@contextmanager
def _places(run: Run, marks: Marks, kind: MachineType) -> Iterator[list[Place]]:
    """Make the disk; yield the source's place, and one for each restored guest."""
    disk = run.folder / "shared" / "marks"
    disk.parent.mkdir()
    try:
        make_disk(disk, marks, 1 + 2 * len(_FLOWS))
        with socket_folder() as folder:
            names = (f"socket-{number}" for number in range(1 + len(_FLOWS)))
            yield [Place(disk, folder / name, marks, kind) for name in names]
    finally:
        shutil.rmtree(disk.parent)


def _served(run: Run, kind: WriterKind, place: Place) -> AbstractContextManager[Service]:
    """Run the kind's daemon within the `with`, if it has one, and yield it."""
    if kind.daemon is None:
        return nullcontext(Service())
    values = {
        "disk": qemu_quoted(place.disk),
        "folder": str(place.disk.parent),
        "socket": str(place.socket),
    }
    log = run.folder / f"{kind.daemon.program}-{place.socket.name}.log"
    return served(kind.daemon, values, log, run.provisioning)


def _require_io(machine: Machine) -> None:
    """Check that QEMU reads the disk in the way that it was told to.

    Raises:
        NotApplicable: this host does not let it.
    """
    if _FALL_BACK in log_tail(machine.folder / QEMU_LOG):
        raise NotApplicable(
            "This host does not let QEMU read the disk in this way; QEMU uses its thread pool in place of it."
        )


def _require_early(machine: Machine) -> None:
    """Check that the target, which is at the end of RAM, was written before QEMU came to it.

    Raises:
        SetupBroken: QEMU may have saved some of it before, which proves nothing.
    """
    remaining = int(machine.query_migrate().get("ram", {}).get("remaining", 0))
    left = remaining - bytes_behind_main(find_ram(machine))
    if left < _LEAST_OF_MAIN:
        raise SetupBroken(
            f"Only {max(left, 0) >> 20} MiB of the main RAM were left to save when the foreign writer had "
            "written all, so some may have been saved before they were written; run less beside it."
        )
