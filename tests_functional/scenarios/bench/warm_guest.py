"""A guest with running writers, booted and filled once and kept as a file; each sample starts it afresh.

Why not sample after sample in one process: the first background snapshot splits the huge pages that guest
RAM is in, and they stay split, so that the next one has up to 512 times as many entries to protect while the
guest is stopped. Measured with QEMU 10.0.13 and 256 MiB under TCG: 276 MiB in huge pages and a stun of 1.1 to
1.6 ms in the first, 22 MiB and 3.0 to 3.3 ms in the second. Figures would depend on the order of samples. A
restored guest's RAM is in huge pages wherever QEMU and the host let it be, as that of a booted one, and it is
there in seconds. It has no past, though: its host memory is as whole as it can be. So the figures are of the
first snapshot of a guest; what a later one costs is measured apart (`again_stun_ms`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness import migration
from harness.deadline import Deadline
from harness.disk import make_empty_disk
from harness.host import LocalHost
from harness.machine import Machine
from harness.machine_config import qemu_quoted
from tests_functional.scenarios import standstill
from tests_functional.scenarios.agent import AgentStatus
from tests_functional.scenarios.bench.ways import DISK_NODE, Way
from tests_functional.scenarios.bench.writers import Writer, start
from tests_functional.scenarios.counters import AgentCounters, CounterPages
from tests_functional.scenarios.guest import COVERAGE, Guest, Stack, booted, logged_in
from tests_functional.scenarios.snapshot import Flow, Snapshot, restore_uri, take

# As slow as an emulated guest on a busy host; only what hangs takes longer.
_FILL_MIB_PER_SECOND, _SAVE_MIB_PER_SECOND = 3, 8
_LEAST_SECONDS = 90.0
# The state lies behind the disk's own content, of which there is none.
_DISK_BYTES = 1 << 20
_DISK_FILE = "savevm.qcow2"


@dataclass(frozen=True)
class WarmGuest:
    """A guest that can be started with its writers running.

    Attributes:
        stack: what it runs on.
        writer: what writes in it.
        snapshot: the file.
        status: the agent's, when it was saved.
        pages: where its counters are.
    """

    stack: Stack
    writer: Writer
    snapshot: Snapshot
    status: AgentStatus
    pages: CounterPages


@dataclass(frozen=True)
class Running:
    """A guest that has just been started.

    Attributes:
        guest: its machine, SSH and agent.
        counters: of its writers.
        disk: what `savevm` saves into, None where there is none.
    """

    guest: Guest
    counters: AgentCounters
    disk: Path | None

    @property
    def machine(self) -> Machine:
        """Its QEMU."""
        return self.guest.machine


def sized(stack: Stack, ram_mib: int) -> Stack:
    """A stack with exactly so much RAM; a small guest needs much of it itself, so its writers cover less."""
    own = stack.image.own_mib
    return replace(stack, ram_mib=ram_mib, coverage=min(COVERAGE, (ram_mib - own) / ram_mib))


@contextmanager
def warm_guest(
    stack: Stack, writer: Writer, folder: Path, deadline: Deadline, seed: int = 1
) -> Iterator[WarmGuest]:
    """Boot a guest, fill its RAM, let it write, and save it; the file is removed on leaving.

    Args:
        stack: RAM and coverage as they are to be, see `sized`.
        writer: what writes.
        folder: of its own; receives the logs and the file.
        deadline: for all of it.
        seed: of the write order.

    Raises:
        SetupBroken: the guest does not answer or has too little memory.
        SubjectFailed: QEMU failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield _made(stack, writer, folder, deadline, seed)
    finally:
        (folder / "vmstate").unlink(missing_ok=True)


def _made(stack: Stack, writer: Writer, folder: Path, deadline: Deadline, seed: int) -> WarmGuest:
    with booted(stack, folder / "booted", deadline.at_most(stack.image.boot_seconds)) as guest:
        limit = deadline.at_most(_seconds(stack, _FILL_MIB_PER_SECOND))
        status, counters = start(guest, stack, writer, seed, limit)
        limit = deadline.at_most(_seconds(stack, _SAVE_MIB_PER_SECOND))
        snapshot = take(Flow.STOP_AND_SAVE, guest, counters, folder, limit)
        guest.machine.quit()
    return WarmGuest(stack, writer, snapshot, status, counters.pages)


@contextmanager
def started(warm: WarmGuest, folder: Path, way: Way, deadline: Deadline) -> Iterator[Running]:
    """Start the guest afresh, its writers running and their statistics cleared; it is ended on leaving.

    Args:
        warm: the guest.
        folder: of its own, for logs and, where `way` is savevm, the disk that it saves into.
        way: how it is to be saved.
        deadline: for its start.

    Raises:
        SubjectFailed: QEMU does not take the file, or the guest does not answer.
        DeadlineExpired: the host is too busy for the writers to be calm.
    """
    stack, disk = warm.stack, None
    folder.mkdir(parents=True, exist_ok=True)
    if way is Way.SAVEVM:
        disk = make_empty_disk(folder / _DISK_FILE, _DISK_BYTES)
        # Without a device of the guest's, so that its saved state fits.
        drive = f"if=none,id=vmstate,node-name={DISK_NODE},format=qcow2,file={qemu_quoted(disk.path)}"
        stack = replace(stack, extra=(*stack.extra, "-drive", drive))
    config = stack.machine_config(warm.snapshot.disk)
    try:
        with Machine(config, LocalHost(), folder, incoming=True) as machine:
            limit = deadline.at_most(_seconds(stack, _SAVE_MIB_PER_SECOND))
            if migration.restore(machine, restore_uri(machine, warm.snapshot), limit) == "paused":
                machine.qmp.execute("cont")
            counters = AgentCounters(machine, warm.pages)
            with logged_in(machine, stack, deadline) as guest:
                standstill.await_calm(
                    guest, lambda: max(counters.longest_gap(), counters.longest_heartbeat_gap())
                )
                yield Running(guest, counters, disk.path if disk else None)
    finally:
        if disk is not None:
            disk.path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove a sample's folder with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)


def _seconds(stack: Stack, mib_per_second: float) -> float:
    return max(_LEAST_SECONDS, stack.total_mib / mib_per_second)
