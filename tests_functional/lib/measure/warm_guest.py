"""Makes the warm guest of a benchmark: a guest with running writers, saved once and restored for each sample.

Samples taken one after the other in one process would depend on their order. The first background snapshot
splits the huge pages that guest RAM is in, and they stay split; the next one then has up to 512 times as many
entries to protect while the guest is stopped. Measured with QEMU 10.0.13 and 256 MiB under TCG: 276 MiB in
huge pages and a stun of 1.1 to 1.6 ms in the first, 22 MiB and 3.0 to 3.3 ms in the second.

A restored guest's RAM is in huge pages as far as QEMU and the host allow it, like that of a booted guest, and
restoring takes seconds. But its host memory is not fragmented, as that of a guest that has run for long may
be. So the figures are of the first snapshot of a guest; a second one is measured apart (`again_stun_ms`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from guest_images.agent.client import AgentStatus, WriterPlan
from guest_images.agent.counters import AgentCounters, CounterPages
from guest_images.agent.format import PAGE_BYTES
from harness.deadline import Deadline
from harness.qemu import migration
from harness.qemu.configuration import MIB, qemu_quoted
from harness.qemu.disk import make_empty_disk
from harness.qemu.machine import Machine
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.lib import stalls
from tests_functional.lib.guest import Guest, Stack, booted, logged_in, start_writers
from tests_functional.lib.guest_size import fitting_coverage
from tests_functional.lib.measure.cases import Way, Writer
from tests_functional.lib.measure.saves import DISK_NODE
from tests_functional.lib.save import Flow, Snapshot, restore_uri, take

# The speed of an emulated guest on a busy host; only a guest that hangs takes longer.
_FILL_MIB_PER_SECOND, _SAVE_MIB_PER_SECOND = 3, 8
_LEAST_SECONDS = 90.0
# QEMU appends the state to the disk's content, so the disk itself can be small.
_DISK_BYTES = 1 << 20
_DISK_FILE = "savevm.qcow2"
# The writes of an idle guest: so few that they cost nothing, and enough to be timed.
_IDLE_PAGES, _IDLE_RATE = 64, 50
_TENTH = 0.1
_ROOM_KIB = 8 << 10


@dataclass(frozen=True)
class WarmGuest:
    """A saved guest that can be started with its writers running.

    Attributes:
        stack: the stack that it runs on.
        writer: the writer in it.
        snapshot: the saved guest.
        status: status of its agent when it was saved.
        pages: the pages with its counters.
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
        counters: the counters of its agent.
        disk: the disk that `savevm` saves into, None for other ways.
    """

    guest: Guest
    counters: AgentCounters
    disk: Path | None

    @property
    def machine(self) -> Machine:
        """Its QEMU."""
        return self.guest.machine


def sized(stack: Stack, ram_mib: int) -> Stack:
    """Return the stack with this much RAM, and with the coverage that a guest of this size allows."""
    return replace(stack, ram_mib=ram_mib, coverage=fitting_coverage(ram_mib, stack.image.own_mib))


@contextmanager
def warm_guest(
    stack: Stack, writer: Writer, folder: Path, deadline: Deadline, seed: int = 1
) -> Iterator[WarmGuest]:
    """Boot a guest, fill its RAM, start its writers and save it; the file is removed on leaving.

    Args:
        stack: what it runs on, with RAM and coverage from `sized`.
        writer: what writes in it.
        folder: a folder of its own for the logs and the file.
        deadline: for booting, filling and saving.
        seed: seed of the write order.

    Raises:
        SetupBroken: the guest does not answer or has too little memory.
        SubjectFailed: QEMU failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield _saved_guest(stack, writer, folder, deadline, seed)
    finally:
        (folder / "vmstate").unlink(missing_ok=True)


def _saved_guest(stack: Stack, writer: Writer, folder: Path, deadline: Deadline, seed: int) -> WarmGuest:
    with booted(stack, folder / "booted", deadline.at_most(stack.image.boot_seconds)) as guest:
        limit = deadline.at_most(_seconds(stack, _FILL_MIB_PER_SECOND))
        status, counters = _start_writers(guest, stack, writer, seed, limit)
        limit = deadline.at_most(_seconds(stack, _SAVE_MIB_PER_SECOND))
        snapshot = take(Flow.STOP_AND_SAVE, guest, counters, folder, limit)
        guest.machine.quit()
    return WarmGuest(stack, writer, snapshot, status, counters.pages)


def _start_writers(
    guest: Guest, stack: Stack, writer: Writer, seed: int, deadline: Deadline
) -> tuple[AgentStatus, AgentCounters]:
    """Fill the covered share of RAM and start the writers.

    Raises:
        SetupBroken: the guest has too little memory.
        DeadlineExpired: the agent did not write all pages in time.
    """
    plan = _writer_plan(stack, writer, seed)
    if writer in (Writer.IDLE, Writer.TENTH):
        _fill(guest, stack, plan.bytes >> 10, seed, deadline)
    return start_writers(guest, plan, deadline)


def _writer_plan(stack: Stack, writer: Writer, seed: int) -> WriterPlan:
    if writer is Writer.IDLE:
        return WriterPlan(_IDLE_PAGES * PAGE_BYTES * stack.vcpus, stack.vcpus, "random", seed, _IDLE_RATE)
    if writer is Writer.TENTH:
        pages = int(stack.total_mib * MIB * _TENTH) // PAGE_BYTES // stack.vcpus * stack.vcpus
        return WriterPlan(pages * PAGE_BYTES, stack.vcpus, "random", seed)
    return stack.writer_plan("hot" if writer is Writer.HOT else "random", seed)


def _fill(guest: Guest, stack: Stack, needed_kib: int, seed: int, deadline: Deadline) -> None:
    """Have an agent write all of its pages and end; Linux does not clear the pages that it frees."""
    start_writers(guest, stack.writer_plan("sequential", seed), deadline)
    guest.agent.pause()
    guest.agent.quit()

    def freed() -> bool:
        for line in guest.shell.check("cat /proc/meminfo", deadline).splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) > needed_kib + _ROOM_KIB
        return True

    deadline.wait_for(freed, "The guest's memory being free again", interval=0.1)


@contextmanager
def started(warm: WarmGuest, folder: Path, way: Way, deadline: Deadline) -> Iterator[Running]:
    """Restore the guest in a new process, its writers running, their statistics reset; end it on leaving.

    Args:
        warm: the saved guest.
        folder: a folder of its own for logs and, if `way` is savevm, the disk to save into.
        way: how it is to be saved.
        deadline: for its start.

    Raises:
        SubjectFailed: QEMU refuses the file, or the guest does not answer.
        DeadlineExpired: the host is so busy that the writers do not run steadily.
    """
    stack, disk = warm.stack, None
    folder.mkdir(parents=True, exist_ok=True)
    if way is Way.SAVEVM:
        disk = make_empty_disk(folder / _DISK_FILE, _DISK_BYTES)
        # The guest gets no device for it; with one, the saved state would not fit.
        drive = f"if=none,id=vmstate,node-name={DISK_NODE},format=qcow2,file={qemu_quoted(disk.path)}"
        stack = replace(stack, extra=(*stack.extra, "-drive", drive))
    config = stack.machine_config(warm.snapshot.disk)
    try:
        with SpawnedMachine(config, folder, incoming=True) as machine:
            limit = deadline.at_most(_seconds(stack, _SAVE_MIB_PER_SECOND))
            if migration.restore(machine, restore_uri(machine, warm.snapshot), limit) == "paused":
                machine.qmp.execute("cont")
            counters = AgentCounters(machine, warm.pages)
            with logged_in(machine, stack, deadline) as guest:
                stalls.await_calm(
                    guest, lambda: max(counters.longest_gap(), counters.longest_heartbeat_gap())
                )
                yield Running(guest, counters, disk.path if disk else None)
    finally:
        if disk is not None:
            disk.path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove a sample's folder and all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)


def _seconds(stack: Stack, mib_per_second: float) -> float:
    return max(_LEAST_SECONDS, stack.total_mib / mib_per_second)
