"""Saves a VM that runs already: T0, golden image, stream into our file, and all as it was before."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.attach.guard import DESCRIPTOR_NAME, WENT_ON
from harness.attach.ledger import Before
from harness.attach.machine import AttachedMachine
from harness.attach.process import open_files
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.limits import limit_error
from harness.qemu import migration
from harness.qemu.configuration import MIB
from harness.qemu.migration import SaveFigures, find_stun
from harness.qemu.qmp import CommandRefused
from harness.qemu.ram import GoldenImage, dump_golden
from harness.userfaultfd import libc
from validators.checks import Problem, judged
from validators.oracles.o5_source_guest.source_guest import check_unprotected
from validators.verdict import CheckResult

_SETTINGS = (
    "After the snapshot the VM has the run state, capabilities, parameters and files that it had before."
)
# Linux include/uapi/linux/falloc.h FALLOC_FL_KEEP_SIZE.
_KEEP_SIZE = 1
# What a stream has beside RAM: device state, headers, the description.
_BESIDE_RAM_MIB = 64
_READY_SECONDS = 10.0


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
    """

    path: Path
    golden: GoldenImage | None
    stopped_ms: float
    figures: SaveFigures
    state: str
    put_back: tuple[str, ...]


@dataclass(frozen=True)
class VmState:
    """What a snapshot must leave as it was.

    Attributes:
        settings: run state, capabilities and parameters.
        files: names of QEMU's descriptors by number, None where they cannot be seen.
    """

    settings: Before
    files: dict[int, str] | None


def vm_state(machine: AttachedMachine) -> VmState:
    """Return what a snapshot must leave as it was."""

    def ask(command: str) -> Any:
        return machine.qmp.execute(command)

    return VmState(Before.look(ask), open_files(machine.pid) if machine.pid else None)


def save_attached(
    machine: AttachedMachine, folder: Path, ram_mib: int, golden: bool, deadline: Deadline
) -> AttachedSnapshot:
    """Save the VM into `folder/vmstate`; the VM is put back as it was, after an error too.

    Args:
        machine: the VM.
        folder: receives `vmstate` and, with a golden image, `golden/`.
        ram_mib: how much RAM the stream carries.
        golden: make a golden image, for which the guest is stopped.
        deadline: for the save.

    Raises:
        NotApplicable: QEMU refuses the capability.
        CommandRefused: QEMU refuses the save.
        SubjectFailed: QEMU failed the save, died or hung.
        SetupBroken: the disk has no room, or the guest was stopped for too long.
    """
    path, mark = folder / "vmstate", machine.qmp.mark()
    try:
        with _reserved(path, ram_mib) as file:
            machine.qmp.pass_descriptor(file, DESCRIPTOR_NAME)
        migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
        image = _begin(machine, folder, golden, mark, deadline)
        figures = migration.wait_completed(machine, deadline)
    except BaseException:
        # The error says more than what may go wrong now; leaving the machine's `with` tries again.
        with contextlib.suppress(Exception):
            machine.put_back()
        raise
    done = machine.put_back()
    os.truncate(path, path.stat().st_size)
    stun = find_stun(machine, mark)
    was_running = machine.before.state == "running"
    state = "paused" if golden or not was_running else "running"
    stopped = stun.seconds * 1000 if stun and was_running else 0.0
    return AttachedSnapshot(path, image, stopped, figures, state, tuple(done))


def _begin(
    machine: AttachedMachine, folder: Path, golden: bool, mark: int, deadline: Deadline
) -> GoldenImage | None:
    """Begin the save, from a stopped guest where there is a golden image; the guest goes on afterwards."""
    uri = f"fd:{DESCRIPTOR_NAME}"
    running = machine.before.state == "running"
    image = None
    if golden:
        if running:
            machine.qmp.execute("stop")
            machine.wait_status(lambda status: status == "paused", Deadline(_READY_SECONDS), "paused")
        # It is all that the guest has in memory.
        (folder / "golden").mkdir(mode=0o700)
        image = dump_golden(machine, folder / "golden")
    still = golden or not running
    _require_still_stopped(machine, still, mark)
    try:
        migration.begin_save(machine, uri, deadline)
    except CommandRefused as refusal:
        # The guard has continued it between the line above and `migrate`.
        if WENT_ON in refusal.reason:
            raise _gone_on(machine) from refusal
        raise
    if golden and running and machine.qmp.execute("query-status")["status"] != "running":
        machine.qmp.execute("cont")
    return image


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


def judge_vm(machine: AttachedMachine, before: VmState) -> list[CheckResult]:
    """Check that the VM is as it was before the snapshot."""
    now = vm_state(machine)
    problems = [*_setting_problems(before.settings, now.settings), *_file_problems(before.files, now.files)]
    return [judged("source-vm", _SETTINGS, problems), check_unprotected(machine)]


def _setting_problems(before: Before, now: Before) -> list[Problem]:
    problems = []
    if before.state != now.state:
        problems.append(
            Problem(
                Code.RUN_STATE_CHANGED,
                f"The guest was '{before.state}' and is '{now.state}' after the snapshot.",
                {"before": before.state, "state": now.state},
            )
        )
    for kind, then, after in (
        ("capability", before.capabilities, now.capabilities),
        ("parameter", before.parameters, now.parameters),
    ):
        problems += [
            Problem(
                Code.DURING_SAVE_SETTINGS,
                f"The migration {kind} '{name}' was {then.get(name)} and is {after.get(name)} after it.",
                {"setting": name},
            )
            for name in sorted({*then, *after})
            if then.get(name) != after.get(name)
        ]
    return problems


def _file_problems(before: dict[int, str] | None, now: dict[int, str] | None) -> list[Problem]:
    """Compare QEMU's files; sockets come and go with clients, and /dev/userfaultfd is kept open for good."""
    if before is None or now is None:
        return []

    def counted(files: dict[int, str]) -> dict[str, int]:
        names = [name for name in files.values() if not name.startswith("socket:")]
        return {name: names.count(name) for name in names if name != "/dev/userfaultfd"}

    then, after = counted(before), counted(now)
    problems = []
    for name in sorted({*then, *after}):
        more = after.get(name, 0) - then.get(name, 0)
        if more:
            code = Code.HOST_FILE_LEFT_OPEN if more > 0 else Code.HOST_FILE_CLOSED
            word = "more" if more > 0 else "fewer"
            problems.append(
                Problem(
                    code,
                    f"QEMU has {abs(more)} {word} descriptors of '{name}' after the snapshot than before it.",
                    {"name": name},
                )
            )
    return problems
