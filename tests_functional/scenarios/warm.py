"""A guest that goes on from a snapshot as the source of further ones: there in a second instead of booted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import migration
from harness.deadline import Deadline
from harness.host import LocalHost
from harness.machine import Machine
from tests_functional.scenarios.counters import AgentCounters
from tests_functional.scenarios.guest import Guest, Stack, logged_in
from tests_functional.scenarios.main_job import Source
from tests_functional.scenarios.snapshot import Snapshot, restore_uri
from tests_functional.scenarios.source_checks import baseline


@contextmanager
def restored_source(stack: Stack, snapshot: Snapshot, folder: Path, deadline: Deadline) -> Iterator[Source]:
    """A guest restored from a snapshot, running, as the source of further snapshots.

    Raises:
        SubjectFailed: QEMU does not take the file.
    """
    machine = Machine(stack.machine_config(snapshot.disk), LocalHost(), folder, incoming=True)
    with machine:
        if migration.restore(machine, restore_uri(machine, snapshot), deadline) == "paused":
            machine.qmp.execute("cont")
        with logged_in(machine, stack, deadline) as guest:
            yield _source(guest)


def _source(guest: Guest) -> Source:
    status = guest.agent.status()
    return Source(guest, AgentCounters.find(guest.machine, status.nonce), status, baseline(guest))
