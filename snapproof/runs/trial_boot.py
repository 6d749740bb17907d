"""For --bisect, tells a QEMU that cannot boot a guest from one whose snapshots are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SnapproofError
from harness.status import Status
from snapproof.report.run_result import OutcomeRecord
from tests_functional.lib.guest import Stack, booted


def why_untestable(
    outcomes: Sequence[OutcomeRecord], stacks: Sequence[Stack], folder: Path, log: Callable[[str], None]
) -> str:
    """Boot a guest with each QEMU of a failed run, and return why the run says nothing about snapshots.

    Args:
        outcomes: the run's outcomes; if a check of one has failed, its guest had booted.
        stacks: the stacks of the run's QEMUs.
        folder: the results folder.
        log: called with a sentence before each slow step.

    Returns:
        The reason as a sentence, "" if there is none.
    """
    failed = [outcome for outcome in outcomes if outcome.status is Status.FAIL]
    if any(check["status"] == Status.FAIL.value for outcome in failed for check in outcome.checks):
        return ""
    log("No check has failed; booting a guest to see whether this QEMU can be tested.")
    for number, stack in enumerate(stacks):
        try:
            with booted(stack, folder / f"trial-boot-{number}", Deadline(stack.image.boot_seconds)):
                pass
        except SnapproofError as error:
            return f"'{stack.executable}' does not boot a guest, so it cannot be tested: {error.sentence}"
    return ""
