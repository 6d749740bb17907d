"""Takes snapshots of one guest by several flows in turn; restores and judges each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles, stun_too_long
from tests_functional.lib.cycle import snapshot_cycle, writing_guest
from tests_functional.lib.known_issues import load_known_issues, with_known_issues
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, sample_stun
from tests_functional.lib.time_limits import SAVE_SECONDS


def one_flow(flow: Flow) -> Callable[[Run], Outcome]:
    """Return a scenario that takes snapshots by one flow only."""
    return lambda run: save_by_flows(run, [flow] * run.repeat)


def save_by_flows(run: Run, flows: Sequence[Flow], stun_samples: int = 0) -> Outcome:
    """Boot a writing guest and take a judged snapshot of it by each flow in turn.

    Args:
        run: the test's run.
        flows: in the order to take them.
        stun_samples: how many further live saves may be made, of which only the stun is measured. One that is
            short enough for the comparison is the last: none that follow can change its verdict.
    """
    begun = time.monotonic()
    cycles: list[Cycle] = []
    with writing_guest(run) as source:
        for number, flow in enumerate(flows, 1):
            label = f"{number:02d}-{flow.label}"
            cycles.append(snapshot_cycle(run, source, flow, label))
            save_so_far(run, outcome_of_cycles(run, cycles[-1:], time.monotonic() - begun))
        stuns: list[float] = []
        while len(stuns) < stun_samples and stun_too_long(cycles, stuns):
            run.say("Measuring another stun of a live save.")
            stuns.append(sample_stun(source.guest, run.deadline.at_most(SAVE_SECONDS * run.stack.slowness)))
        source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun, stuns)


def save_so_far(run: Run, outcome: Outcome) -> None:
    """Keep the outcome of one snapshot of a test, which is read if the test is ended before it can report."""
    # On a full disk a failed save may not be QEMU's fault, and there is no room for the file.
    if not run.disk_full():
        with_known_issues(outcome, load_known_issues()).save_so_far(run.folder)
