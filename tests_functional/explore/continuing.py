"""Goes on with a restored guest in place of its source, and begins saves of a QEMU that lacks descriptors."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.qemu import migration
from harness.qemu.machine import known_pid
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.during_save.mid_save import quit_after
from tests_functional.explore import saving
from tests_functional.explore.model import RUNNING, Writers
from tests_functional.explore.session import Session, host_excused
from tests_functional.lib.cycle import Source
from tests_functional.lib.guest import logged_in
from tests_functional.lib.save import Flow, restore_uri
from tests_functional.lib.source_checks import baseline
from tests_functional.lib.time_limits import RESTORE_SECONDS

_MOST_LEFT = 3


def continue_restored(session: Session, _arguments: Mapping[str, Any]) -> bool:
    """Save the guest, restore it, have its source quit, and go on with the restored guest."""
    model = session.model
    if model.save is not None or model.run_state != RUNNING or model.writers is not Writers.ON:
        return False
    if session.tampered or session.image or session.foreign:
        # A new QEMU has other settings, and no image.
        return False
    made = saving.taken(session, Flow.LIVE)
    if made is None or session.failed:
        return True
    session.checks.append(quit_after(session.machine, session.run.stack.slowness))
    if session.failed:
        return True
    run = session.run.with_arguments(session.restored_arguments)
    limit = session.limit(RESTORE_SECONDS)
    config = run.stack.machine_config(made.disk)
    folder = made.path.parent / "continued"
    machine = session.machines.enter_context(SpawnedMachine(config, folder, incoming=True))
    with host_excused(machine):
        migration.restore(machine, restore_uri(machine, made), limit)
        guest = session.machines.enter_context(logged_in(machine, run.stack, limit))
        status, counters = guest.agent.status(), guest.agent.counters(machine)
    session.source = Source(guest, counters, status, baseline(guest))
    session.booted_before = None
    session.note_settings()
    return True


def begin_starved(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Begin a save while QEMU can open few files more, or none; a refusal must leave the guest as it is."""
    model = session.model
    if model.save is not None or model.writers is not Writers.ON or model.run_state != RUNNING:
        return False
    with _few_descriptors(session, int(arguments["left"])):
        return saving.begin(session, golden=False, transport=str(arguments["transport"]))


@contextmanager
def _few_descriptors(session: Session, left: int) -> Iterator[None]:
    """Let QEMU open only `left` descriptors more within the `with`."""
    pid = known_pid(session.machine)
    highest = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + min(left, _MOST_LEFT), before[1]))
    session.starved = True
    try:
        yield
    finally:
        session.starved = False
        if session.machine.alive():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
