"""How many tests run side by side: as many as processors and memory of the host allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.hosts.local import HostFacts
from tests_functional.lib.entry import Entry

# For the page cache, the command and everything else on the host.
_SPARE_MIB = 1024


@dataclass(frozen=True)
class Plan:
    """Which tests run side by side, and which alone.

    Attributes:
        together: tests of which `workers` run at a time, the longest first.
        alone: tests that run after them, one by one.
        workers: at least 1.
    """

    together: tuple[Entry, ...]
    alone: tuple[Entry, ...]
    workers: int


def plan(entries: Sequence[Entry], facts: HostFacts, jobs: int | None) -> Plan:
    """Divide tests into those that run side by side and those that run alone.

    Args:
        entries: what to run.
        facts: of the host, its memory as it is now.
        jobs: how many at a time at most, None for as many as fit.
    """
    # One that takes a quarter of an hour, begun last, would keep all other processors idle meanwhile.
    longest_first = sorted(entries, key=lambda entry: -entry.seconds)
    together = tuple(entry for entry in longest_first if not entry.alone)
    alone = tuple(entry for entry in entries if entry.alone)
    # Under TCG a guest's vCPU is always busy, but a test also waits, for a sink or a limit: one for each
    # processor keeps the processors busy.
    return Plan(together, alone, _fitting(together, jobs or facts.cpus, facts.memory_mib - _SPARE_MIB))


def _fitting(entries: Sequence[Entry], most: int, memory_mib: int) -> int:
    """Return how many tests can run at a time if the largest ones coincide; at least 1."""
    needs = sorted((entry.memory_mib for entry in entries), reverse=True)
    workers = 1
    while workers < min(most, len(needs)) and sum(needs[: workers + 1]) <= memory_mib:
        workers += 1
    return workers
