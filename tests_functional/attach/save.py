"""Saves a VM that runs already: T0, golden image, stream into our file, and all as it was before."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.attach.guard import CORE_NAME, DESCRIPTOR_NAME, WENT_ON
from harness.attach.machine import AttachedMachine
from harness.attach.pins import NO_PINS, PinPlan, Pins, pin_disks, plan_pins
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SetupBroken, SnapproofError, SubjectFailed
from harness.limits import limit_error
from harness.qemu import migration
from harness.qemu.configuration import MIB
from harness.qemu.core_image import RamTable, dump_core, golden_from_core
from harness.qemu.handed_over import hand_over
from harness.qemu.migration import SaveFigures, find_stun
from harness.qemu.qmp import CommandRefused
from harness.qemu.ram import GoldenImage, differing_pages, dump_golden
from harness.userfaultfd import libc
from tests_functional.attach.look import GoldenWay

# Linux include/uapi/linux/falloc.h FALLOC_FL_KEEP_SIZE.
_KEEP_SIZE = 1
# What a stream has beside RAM: device state, headers, the description.
_BESIDE_RAM_MIB = 64
_READY_SECONDS = 10.0
_CORE = "golden-core"
# A save that stands still for less than this may be that of a busy host.
_EVIDENCE_SECONDS = 60.0


@dataclass(frozen=True)
class AttachedSnapshot:
    """A snapshot of a VM that was attached.

    Attributes:
        path: the vmstate file.
        golden: RAM at T0, None where there is none.
        stopped_ms: how long the guest was stopped, by QEMU's events; 0 for one that was stopped already.
        figures: QEMU's own.
        state: the guest's run state in the file.
        put_back: what was put back, a sentence each.
        written: pages that differ from the golden image when the save has ended, None if that is unknown.
        pins: the VM's disks as they were at T0, until they are let go of.
        unpinned: why they are not pinned, the end of a sentence; "" if they are, or it was not asked for.
    """

    path: Path
    golden: GoldenImage | None
    stopped_ms: float
    figures: SaveFigures
    state: str
    put_back: tuple[str, ...]
    written: int | None = None
    pins: Pins = NO_PINS
    unpinned: str = ""


@dataclass
class _Begun:
    """What was done while the guest stood still.

    Attributes:
        image: makes the golden image, None where there is none.
        pins: the disks of T0.
        unpinned: why they are not pinned.
    """

    image: Callable[[], GoldenImage] | None = None
    pins: Pins = NO_PINS
    unpinned: str = ""


def save_attached(
    machine: AttachedMachine,
    folder: Path,
    ram_mib: int,
    golden: GoldenWay,
    seconds: float,
    pin_at: Path | None = None,
) -> AttachedSnapshot:
    """Save the VM into `folder/vmstate`; the VM is put back as it was, after an error too.

    Only its disks stay pinned, until `AttachedMachine.unpin` or the end of the attachment.

    Args:
        machine: the VM.
        folder: receives `vmstate` and, with a golden image, `golden/`.
        ram_mib: how much RAM the stream carries.
        golden: how to make a golden image, for which the guest is stopped.
        seconds: limit of the save, and of QEMU's dump of memory.
        pin_at: where QEMU is to serve the disks of T0, None if they are not to be pinned.

    Raises:
        NotApplicable: QEMU refuses the capability.
        CommandRefused: QEMU refuses the save.
        SubjectFailed: QEMU failed the save, died or hung.
        SetupBroken: the disk has no room, the guest was stopped for too long, or the limit is short.
    """
    path, mark = folder / "vmstate", machine.qmp.mark()
    still = golden is not GoldenWay.NONE or machine.before.state != "running"
    plan = plan_pins(machine, folder) if pin_at and still else None
    try:
        with _reserved(path, ram_mib) as file:
            uri = hand_over(machine, file, DESCRIPTOR_NAME)
        migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
        begun = _begin(machine, folder, uri, golden, mark, seconds, (plan, pin_at))
        figures = migration.wait_completed(machine, Deadline(seconds))
    except BaseException as error:
        # The error says more than what may go wrong now; leaving the machine's `with` tries again.
        with contextlib.suppress(Exception):
            machine.put_back()
        if isinstance(error, SubjectFailed):
            raise _short_limit(error, seconds) from error
        raise
    done = machine.put_back(pins=False)
    golden_image = begun.image() if begun.image else None
    written = _written(machine, golden_image) if golden_image and golden is GoldenWay.MEMORY else None
    os.truncate(path, path.stat().st_size)
    stun = find_stun(machine, mark)
    was_running = machine.before.state == "running"
    state = "paused" if golden is not GoldenWay.NONE or not was_running else "running"
    stopped = stun.seconds * 1000 if stun and was_running else 0.0
    unpinned = begun.unpinned or ("" if plan or not pin_at else "the guest was not stopped for the save")
    return AttachedSnapshot(
        path, golden_image, stopped, figures, state, tuple(done), written, begun.pins, unpinned
    )


def _begin(
    machine: AttachedMachine,
    folder: Path,
    uri: str,
    golden: GoldenWay,
    mark: int,
    seconds: float,
    pin: tuple[PinPlan | None, Path | None] = (None, None),
) -> _Begun:
    """Begin the save, from a stopped guest where there is a golden image; the guest goes on afterwards."""
    running = machine.before.state == "running"
    begun = _Begun()
    stopped = golden is not GoldenWay.NONE
    if stopped:
        if running:
            _stop(machine, mark)
        begun.image = _golden_image(machine, folder, golden, Deadline(seconds))
    _pin(machine, begun, *pin)
    still = stopped or not running
    _require_still_stopped(machine, still, mark)
    try:
        migration.begin_save(machine, uri, Deadline(seconds))
    except CommandRefused as refusal:
        # The guard has continued it between the line above and `migrate`.
        if WENT_ON in refusal.reason:
            raise _gone_on(machine) from refusal
        raise
    if stopped and running and machine.qmp.execute("query-status")["status"] != "running":
        machine.qmp.execute("cont")
    return begun


def _pin(machine: AttachedMachine, begun: _Begun, plan: PinPlan | None, place: Path | None) -> None:
    """Pin the disks of a guest that stands still, if that was planned and QEMU does it."""
    if plan is None or place is None:
        return
    try:
        begun.pins = pin_disks(machine, plan, place)
    except CommandRefused as refusal:
        begun.unpinned = f"QEMU refuses it: {refusal.reason.rstrip('.')}"
        machine.unpin()


def _stop(machine: AttachedMachine, mark: int) -> None:
    """Stop the guest.

    Raises:
        SetupBroken: the guard has continued it already, or somebody else has.
        SubjectFailed: QEMU did not stop it.
    """
    machine.qmp.execute("stop")
    try:
        machine.wait_status(lambda status: status == "paused", Deadline(_READY_SECONDS), "paused")
    except SubjectFailed:
        _require_still_stopped(machine, True, mark)
        raise


def _short_limit(failed: SubjectFailed, seconds: float) -> SnapproofError:
    """Return the error of a save that failed; one that did not end within a short limit proves nothing."""
    if failed.code is not Code.SAVE_UNFINISHED or seconds >= _EVIDENCE_SECONDS:
        return failed
    return SetupBroken(
        f"{failed.sentence.rstrip('.')}; a limit of {seconds:g} s is too short to blame anybody, so allow "
        "more with --seconds.",
        failed.evidence,
    )


def _written(machine: AttachedMachine, image: GoldenImage) -> int:
    """Return how many pages of guest RAM differ from the golden image by now."""
    return sum(1 for block, copy in image.copies() for _ in differing_pages(machine, block, copy))


def _golden_image(
    machine: AttachedMachine, folder: Path, way: GoldenWay, deadline: Deadline
) -> Callable[[], GoldenImage]:
    """Copy RAM of a stopped guest; what is returned makes the image of the copy, which can wait.

    Raises:
        SetupBroken: it cannot be copied.
    """
    place = folder / "golden"
    # It is all that the guest has in memory.
    place.mkdir(mode=0o700)
    if way is GoldenWay.MEMORY:
        image = dump_golden(machine, place)
        return lambda: image
    core, table = folder / _CORE, RamTable.look(machine)
    try:
        dump_core(machine, core, CORE_NAME, deadline)
    except CommandRefused as refusal:
        raise SetupBroken(
            f"QEMU does not dump this guest's memory ({refusal.reason}), and its process cannot be read, so "
            "there is no golden image; do without one (--no-golden)."
        ) from refusal

    def made() -> GoldenImage:
        try:
            return golden_from_core(core, table, place)
        finally:
            core.unlink()

    return made


def _require_still_stopped(machine: AttachedMachine, stopped: bool, mark: int) -> None:
    """Check that nobody has continued the guest since we stopped it or, if it was paused, came to it.

    Raises:
        SetupBroken: the guard has, or somebody else.
    """
    events = [event.name for event in machine.qmp.events_since(mark)]
    if stopped and "RESUME" in events:
        raise _gone_on(machine)


def _gone_on(machine: AttachedMachine) -> SetupBroken:
    return SetupBroken(
        f"The guest went on before its memory was copied: that took longer than {machine.max_stop:g} s, "
        "or somebody else continued it. Allow more with --max-stop, or do without with --no-golden."
    )


@contextmanager
def _reserved(path: Path, ram_mib: int) -> Iterator[int]:
    """Create the snapshot's file and reserve room for it, since a full disk would harm the VM.

    QEMU 7.2 hangs after a save that failed (docs/findings.md, F9).

    Raises:
        SetupBroken: there is no room.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        size = ctypes.c_int64((ram_mib + ram_mib // 256 + _BESIDE_RAM_MIB) * MIB)
        try:
            libc.checked(
                int(libc.LIBC.fallocate(descriptor, _KEEP_SIZE, ctypes.c_int64(0), size)), "fallocate"
            )
        except OSError as error:
            # A file system that cannot reserve says so; `look` has seen that there is room.
            if error.errno not in (95, 38, 22):
                raise limit_error(error, f"reserving room for '{path}'") from error
        yield descriptor
    finally:
        os.close(descriptor)
