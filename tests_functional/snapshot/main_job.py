"""The main job: live, golden and stop-and-save snapshots of one guest, their stuns compared."""

from __future__ import annotations

from tests_functional.lib.flows import save_by_flows
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow

# A stun is a few milliseconds of wall time, and a busy host can only lengthen it: of several, the
# shortest is QEMU's own share. One sample alone was seen at ten times that on an overloaded host.
_STUN_SAMPLES = 3


def main_job(run: Run) -> Outcome:
    """Live, golden and stop-and-save snapshots of one guest, with their stuns compared."""
    return save_by_flows(
        run, [*[Flow.LIVE] * run.repeat, Flow.STOP_MIGRATE_CONT, Flow.STOP_AND_SAVE], _STUN_SAMPLES
    )
