"""Runs the main job: live, golden and stop-and-save snapshots of one guest, with their stuns compared."""

from __future__ import annotations

from dataclasses import replace

from harness.qemu.configuration import type_of
from tests_functional.lib.flows import save_by_flows
from tests_functional.lib.guest import Stack
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow

# A stun takes a few milliseconds of wall time. A busy host only lengthens it, so the shortest of several is
# closest to QEMU's own share. On an overloaded host one sample was seen at ten times the shortest. So further
# ones are taken where the first is too long.
_STUN_SAMPLES = 3


def main_job(run: Run) -> Outcome:
    """Take live, golden and stop-and-save snapshots of one guest, judge them and compare their stuns."""
    run = replace(run, stack=with_ram_for_stuns(run.stack))
    return save_by_flows(
        run, [*[Flow.LIVE] * run.repeat, Flow.STOP_MIGRATE_CONT, Flow.STOP_AND_SAVE], _STUN_SAMPLES
    )


def with_ram_for_stuns(stack: Stack) -> Stack:
    """Return the stack with so much RAM that its machine type's stuns can be compared."""
    kind = stack.image.architecture.machine_type(type_of(stack.machine))
    return replace(stack, ram_mib=max(stack.ram_mib, kind.stun_ram_mib)) if kind else stack
