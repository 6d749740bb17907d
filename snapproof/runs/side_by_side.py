"""Plans which tests of a run go side by side: as many as processors and memory of the host allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.hosts.local import HostFacts
from tests_functional.lib.profile_row import ProfileRow

# For the page cache, the command and everything else on the host.
_SPARE_MIB = 1024


@dataclass(frozen=True)
class Plan:
    """Which tests run side by side, and which alone.

    Attributes:
        together: tests of which `workers` run at a time, the longest first: by their time-outs, then by
            the memory of their guests.
        alone: tests that run after them, one by one.
        workers: at least 1.
    """

    together: tuple[ProfileRow, ...]
    alone: tuple[ProfileRow, ...]
    workers: int


def plan(rows: Sequence[ProfileRow], facts: HostFacts, jobs: int | None, resting: bool = False) -> Plan:
    """Divide tests into those that run side by side and those that run alone.

    Args:
        rows: the tests.
        facts: facts about the host, with the memory that is available now.
        jobs: most tests at a time, None for as many as fit.
        resting: whether each test's guest rests while its file is judged, as bare guests do.
    """
    # A long test that starts last would leave all other processors idle.
    longest_first = sorted(rows, key=lambda row: (-row.seconds, -row.memory_mib))
    together = tuple(row for row in longest_first if not row.alone)
    alone = tuple(row for row in rows if row.alone)
    # Under TCG a guest's vCPU is always busy, but a test also waits, for a sink or a limit: one for each
    # processor keeps the processors busy, and one more where the guests rest as well.
    most = jobs or facts.cpus + int(resting)
    return Plan(together, alone, _fitting(together, most, facts.memory_mib - _SPARE_MIB))


def _fitting(rows: Sequence[ProfileRow], most: int, memory_mib: int) -> int:
    """Return how many tests can run at a time if the largest ones coincide; at least 1."""
    needs = sorted((row.memory_mib for row in rows), reverse=True)
    workers = 1
    while workers < min(most, len(needs)) and sum(needs[: workers + 1]) <= memory_mib:
        workers += 1
    return workers
