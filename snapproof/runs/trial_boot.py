"""Whether a failed run speaks of snapshots at all: a QEMU that brings up no guest cannot be tested."""

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
    """Why a failed run says nothing about snapshots, by booting a guest where no check of one has failed.

    Args:
        outcomes: of the run; where a check of one has failed, its guest was up.
        stacks: of the run's QEMUs.
        folder: of the results.
        log: told what takes time.

    Returns:
        The sentence, "" where there is no such reason.
    """
    failed = [outcome for outcome in outcomes if outcome.status is Status.FAIL]
    if any(check["status"] == Status.FAIL.value for outcome in failed for check in outcome.checks):
        return ""
    log("No check has failed; finding out whether a guest comes up at all.")
    for number, stack in enumerate(stacks):
        try:
            with booted(stack, folder / f"trial-boot-{number}", Deadline(stack.image.boot_seconds)):
                pass
        except SnapproofError as error:
            return f"'{stack.executable}' brings no guest up, so it cannot be tested: {error.sentence}"
    return ""
