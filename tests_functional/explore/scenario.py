"""Takes a list of steps as a scenario, so that a list that was found can be kept as a test."""

from __future__ import annotations

from tests_functional.explore.executor import run_steps
from tests_functional.explore.steps import StepList
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run

_HOLDS = "Each snapshot is the guest at T0, and guest and QEMU are as the steps imply."


def explored(run: Run, steps: StepList) -> Outcome:
    """Take the steps of a list and judge all of it."""
    record = run_steps(run, steps)
    return outcome_of(run, record.checks, record.seconds, _HOLDS, {"proofs": record.proofs})
