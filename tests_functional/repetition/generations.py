"""Takes snapshots of a guest that was restored from a snapshot, five generations deep."""

from __future__ import annotations

import time
from dataclasses import replace

from harness.status import Status
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import snapshot_cycle, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, Snapshot
from tests_functional.lib.time_limits import RESTORE_SECONDS
from tests_functional.lib.warm_source import warm_source

_DEPTH = 5


def generations(run: Run) -> Outcome:
    """Snapshot a guest, restore it, snapshot the restored guest, and so on; judge each snapshot."""
    begun = time.monotonic()
    # The next generation restores this file.
    keeping = replace(run, keep=True)
    with writing_guest(run) as source:
        cycles = [snapshot_cycle(keeping, source, Flow.LIVE, "generation-0")]
        source.guest.machine.quit()
    while len(cycles) <= _DEPTH and cycles[-1].verdict.status is Status.PASS:
        cycles.append(_next(keeping, cycles[-1].snapshot, len(cycles)))
        run.discard(cycles[-2].snapshot.path.parent)
    if cycles[-1].verdict.status is Status.PASS:
        run.discard(run.folder)
    return outcome_of_cycles(run, cycles, time.monotonic() - begun)


def _next(run: Run, snapshot: Snapshot, number: int) -> Cycle:
    folder = run.folder / f"source-{number}"
    run.say(f"Generation {number}: restoring generation {number - 1} as the source guest.")
    deadline = run.deadline.at_most(RESTORE_SECONDS)
    with warm_source(run.stack, snapshot, folder, deadline) as source:
        cycle = snapshot_cycle(run, source, Flow.LIVE, f"generation-{number}")
        source.guest.machine.quit()
    return cycle
