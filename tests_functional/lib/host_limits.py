"""Keep a limit of the machine from looking like a fault of QEMU: before a test, and when it has ended."""

from __future__ import annotations

from dataclasses import replace

from harness.codes import Code
from harness.errors import SetupBroken
from harness.limits import short_limits
from harness.linux.cgroup import memory_limits
from harness.status import Status
from tests_functional.lib.guest_size import GUESTS_AT_ONCE, QEMU_MIB
from tests_functional.lib.outcome import Outcome

_MIB = 1 << 20
# A QEMU maps more than the QEMU_MIB that it uses: libraries, stacks, the buffer for generated code.
_MAPPED_MIB = 512
# A page record is 8 bytes longer than its page; with device state and a description a file is not 5 % longer.
_FILE_FACTOR = 1.05
# Checks of the snapshot's content: no limit of the machine makes it wrong.
_CONTENT = ("golden", "write-order", "zero-fill", "page-twice", "page-missing")


def require_limits(total_mib: int) -> None:
    """Check that the limits of this process and of its control groups suffice for a test.

    Args:
        total_mib: RAM of the test's guest.

    Raises:
        SetupBroken: one of them does not.
    """
    short = short_limits(int(total_mib * _FILE_FACTOR), total_mib + _MAPPED_MIB)
    needed = GUESTS_AT_ONCE * (total_mib + QEMU_MIB)
    short += [
        f"The control group's limit '{limit.path}' is {limit.limit_bytes // _MIB} MiB and the two guests of "
        f"this test need {needed} MiB; raise it."
        for limit in memory_limits()
        if limit.limit_bytes < needed * _MIB
    ]
    if short:
        raise SetupBroken(" ".join(short), code=Code.SETUP_LIMIT)


def without_limits(outcome: Outcome, killed: int) -> Outcome:
    """Return the same outcome, or an ERROR where a limit of the machine is behind its failure.

    Wrong content of a snapshot stays a failure: no limit makes it.

    Args:
        outcome: of a test.
        killed: how many processes the kernel has killed for our control group's memory limit meanwhile.
    """
    violations = [violation for check in outcome.checks for violation in check.violations]
    if outcome.status is not Status.FAIL or any(one.code.subject in _CONTENT for one in violations):
        return outcome
    limits = [one.sentence for one in violations if one.code is Code.SETUP_LIMIT]
    if killed and not limits:
        limits = [
            f"The kernel killed {killed} processes for the memory limit of our control group during this "
            f"test, so it says nothing about QEMU; raise the limit. (It ended with: {outcome.sentence})"
        ]
    return replace(outcome, status=Status.ERROR, sentence=limits[0]) if limits else outcome
