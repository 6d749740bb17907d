"""Takes snapshots of guest RAM with every memory backend: a right snapshot or a clear refusal is required."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import NotApplicable
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import snapshot_cycle, writing_guest
from tests_functional.lib.guest import Stack
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.memory.refusal import judge_refusal, refusal_when_set


@dataclass(frozen=True)
class MemoryKind:
    """A kind of guest RAM, by its memory backends.

    Attributes:
        reason: why it is tested.
        backends: the `-object` argument of each NUMA node, without id and size; empty for QEMU's default RAM.
        huge_pages: whether it needs reserved huge pages of 2 MiB on the host.
    """

    reason: str
    backends: tuple[str, ...] = ()
    huge_pages: bool = False

    def stack(self, stack: Stack) -> Stack:
        """Return the stack with such RAM, divided equally among the backends."""
        if not self.backends:
            return stack
        size = stack.ram_mib // len(self.backends)
        objects = [
            part
            for number, backend in enumerate(self.backends)
            for part in ("-object", f"{backend},id=mem{number},size={size}M")
        ]
        if len(self.backends) == 1:
            return replace(
                stack, machine=f"{stack.machine},memory-backend=mem0", extra=(*stack.extra, *objects)
            )
        nodes = [
            part for number in range(len(self.backends)) for part in ("-numa", f"node,memdev=mem{number}")
        ]
        return replace(stack, extra=(*stack.extra, *objects, *nodes))


_FREE_HUGE_PAGES = re.compile(r"^HugePages_Free:\s+(\d+)$", re.MULTILINE)
_HUGE_PAGE_MIB = 2

MEMORY_KINDS: Mapping[str, MemoryKind] = {
    "anonymous": MemoryKind("QEMU's default RAM, the only kind that the feature was written for"),
    "anonymous-shared": MemoryKind("shared anonymous RAM is shmem", ("memory-backend-ram,share=on",)),
    "preallocated": MemoryKind("every page is populated from the start", ("memory-backend-ram,prealloc=on",)),
    "memfd-shared": MemoryKind(
        "vhost-user needs it; UFFD-WP on shmem from Linux 5.19", ("memory-backend-memfd,share=on",)
    ),
    "memfd-private": MemoryKind("private pages over a shmem file", ("memory-backend-memfd,share=off",)),
    "file-shared": MemoryKind(
        "RAM in a file on disk cannot be write-protected", ("memory-backend-file,mem-path=/var/tmp,share=on",)
    ),
    "file-private": MemoryKind(
        "private pages over a file on disk", ("memory-backend-file,mem-path=/var/tmp,share=off",)
    ),
    "tmpfs-shared": MemoryKind(
        "a file on tmpfs is shmem", ("memory-backend-file,mem-path=/dev/shm,share=on",)
    ),
    "hugetlb": MemoryKind(
        "huge pages are protected and saved as whole ones",
        ("memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=on",),
        huge_pages=True,
    ),
    "numa-mixed": MemoryKind(
        "RAMBlocks of different kinds in one guest", ("memory-backend-ram", "memory-backend-memfd,share=on")
    ),
    "numa-refused-last": MemoryKind(
        "the second block is refused after the first has been protected",
        ("memory-backend-ram", "memory-backend-file,mem-path=/var/tmp,share=on"),
    ),
}


def memory_kind(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario for one of MEMORY_KINDS."""
    return lambda run: _on(run, MEMORY_KINDS[name])


def _on(run: Run, kind: MemoryKind) -> Outcome:
    if kind.huge_pages:
        _require_huge_pages(run.stack)
    begun = time.monotonic()
    run = replace(run, stack=kind.stack(run.stack))
    cycles: list[Cycle] = []
    with writing_guest(run) as source:
        refusal = refusal_when_set(source)
        if refusal is not None:
            return judge_refusal(run, source, refusal, time.monotonic() - begun)
        for number, flow in enumerate((Flow.STOP_MIGRATE_CONT, Flow.LIVE), 1):
            cycles.append(snapshot_cycle(run, source, flow, f"{number:02d}-{flow.label}"))
        source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun)


def _require_huge_pages(stack: Stack) -> None:
    """Raise NotApplicable if the host has too few free huge pages for the source and the restored guest."""
    found = _FREE_HUGE_PAGES.search(Path("/proc/meminfo").read_text(encoding="ascii"))
    free, needed = int(found[1]) if found else 0, 2 * stack.ram_mib // _HUGE_PAGE_MIB
    if free < needed:
        raise NotApplicable(
            f"This host has {free} free huge pages of the {needed} needed; root can set vm.nr_hugepages."
        )
