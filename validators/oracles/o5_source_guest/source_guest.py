"""Check that the source guest runs on unharmed: answers, finds no error, writes as fast as before."""

from __future__ import annotations

from itertools import accumulate

from guest_images.agent.client import Agent, AgentStatus
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SnapproofError
from harness.linux.uffd_waiters import find_waiters
from harness.qemu.machine import Machine
from harness.qemu.ram import unlocated_blocks, write_protected_pages
from validators.checks import Problem, judged, skipped
from validators.verdict import CheckResult

_SOURCE = "After the snapshot the source guest runs, answers, and its agent finds no error."
_UNPROTECTED = "Nothing of guest RAM is left write-protected."
_LATENCY = "Writes are as fast after the snapshot as before it."

_SETTLED_WRITES = 2000
_SETTLE_SECONDS = 30.0
# Histogram buckets double: three of them are a factor of eight, far above this machine's noise and
# far below a write-protect fault (hundreds of microseconds against single ones).
_LATENCY_BUCKETS = 3


def median_write_bucket(agent: Agent) -> int:
    """Measure how long the guest's writes take from now on.

    Returns:
        The bucket *b* of the agent's histogram that has the median: it takes over 2**b us.

    Raises:
        SnapproofError: the guest does not answer, or its writers make no steps.
    """
    return _median_bucket(_settled(agent))


def check_source_guest(machine: Machine, agent: Agent, median_before: int) -> list[CheckResult]:
    """Check the source guest after a snapshot.

    An unresponsive guest is a failed check: QMP said that it runs.

    Args:
        machine: the source.
        agent: the agent in it.
        median_before: `median_write_bucket` of before its first snapshot.
    """
    try:
        status = _settled(agent)
    except SnapproofError as error:
        return [_silent(machine, error), check_unprotected(machine)]
    problems = []
    if status.errors:
        problems.append(
            Problem(Code.SOURCE_WRONG_PAGES, f"The source guest's writers found {status.errors} wrong pages.")
        )
    if status.state != "running":
        problems.append(
            Problem(
                Code.SOURCE_WRITERS_STATE,
                f"The source guest's writers are '{status.state}' after the snapshot.",
                {"state": status.state},
            )
        )
    return [
        judged("source-guest", _SOURCE, problems),
        check_unprotected(machine),
        _latency(status, median_before),
    ]


def _silent(machine: Machine, error: SnapproofError) -> CheckResult:
    held = find_waiters(machine.pid)
    why = f"{error.sentence.rstrip('.: ')}{held.clause}"
    problem = Problem(
        Code.SOURCE_SILENT,
        f"QEMU says that the source guest runs, but it does not answer: {why}.",
        {**error.fields, **held.fields, "error": error.code},
    )
    return judged("source-guest", _SOURCE, [problem])


def _settled(agent: Agent) -> AgentStatus:
    """Return the agent's status after it has timed enough writes since now."""
    agent.reset_stats()
    deadline = Deadline(_SETTLE_SECONDS)
    while True:
        status = agent.status()
        if sum(status.histogram) >= _SETTLED_WRITES:
            return status
        deadline.check("The writers' next steps")
        deadline.nap(0.05)


def _median_bucket(status: AgentStatus) -> int:
    half = sum(status.histogram) / 2
    return next(bucket for bucket, seen in enumerate(accumulate(status.histogram)) if seen >= half)


def _latency(status: AgentStatus, median_before: int) -> CheckResult:
    median = _median_bucket(status)
    problems = []
    if median > median_before + _LATENCY_BUCKETS:
        problems.append(
            Problem(
                Code.SOURCE_SLOWER,
                f"Half of the writes take over {1 << median} us after the snapshot, "
                f"{1 << median_before} us before it.",
            )
        )
    return judged("source-latency", _LATENCY, problems, {"median_us": 1 << median})


def check_unprotected(machine: Machine) -> CheckResult:
    """Check that nothing of guest RAM is write-protected after a snapshot, whatever the guest does."""
    left = write_protected_pages(machine)
    if left is None:
        return skipped("source-unprotected", _UNPROTECTED, "QEMU's pagemap cannot be read on this host.")
    problems = []
    if left:
        problems.append(
            Problem(
                Code.SOURCE_WRITE_PROTECTED,
                f"{left} pages of guest RAM are still write-protected after the snapshot.",
            )
        )
    facts: dict[str, int | float | str] = {"pages": left}
    if unknown := unlocated_blocks(machine):
        facts["RAMBlocks not looked at"] = ", ".join(unknown)
    return judged("source-unprotected", _UNPROTECTED, problems, facts)
