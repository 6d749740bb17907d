"""Restores a warm guest as the source of further snapshots, in a second instead of a boot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guest_images.agent.counters import AgentCounters
from harness.deadline import Deadline
from harness.qemu import migration
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.lib.cycle import Source
from tests_functional.lib.guest import Guest, Stack, logged_in
from tests_functional.lib.save import Snapshot, restore_uri
from tests_functional.lib.source_checks import baseline


@contextmanager
def warm_source(stack: Stack, snapshot: Snapshot, folder: Path, deadline: Deadline) -> Iterator[Source]:
    """Restore a guest from a snapshot and yield it, running, as the source of further snapshots.

    Raises:
        SubjectFailed: QEMU does not take the file.
    """
    machine = SpawnedMachine(stack.machine_config(snapshot.disk), folder, incoming=True)
    with machine:
        if migration.restore(machine, restore_uri(machine, snapshot), deadline) == "paused":
            machine.qmp.execute("cont")
        with logged_in(machine, stack, deadline) as guest:
            yield _source(guest)


def _source(guest: Guest) -> Source:
    status = guest.agent.status()
    return Source(guest, AgentCounters.find(guest.machine, status.nonce), status, baseline(guest))
