"""Lists which memory tests each profile runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tests_functional.lib.profile_row import ANY_GUEST, LINUX, PREMERGE, QUICK_GUEST, SMALL, ProfileRow
from tests_functional.memory.host_pages import HOST_PAGES
from tests_functional.memory.host_ways import HOST_WAYS
from tests_functional.memory.kinds import MEMORY_KINDS
from tests_functional.memory.plugged import PLUGGED_KINDS
from tests_functional.memory.virtio_mem import VIRTIO_MEM_KINDS

_TESTS = "memory/test_memory.py:Memory"
_SEEDS = "snapshot/test_flows.py:SnapshotFlows.test_seeds"


# One test for each way in which RAM is made or plugged in.
_IN_PREMERGE = ("memfd-shared", "numa-refused-last", "plugged-anonymous", "virtio-mem")


_HAS_EQUAL_PAGES = "a file in the guest has equal pages for the host to merge; the agent's pages all differ"


class _Kind(Protocol):
    """Any kind of guest RAM that has a reason."""

    @property
    def reason(self) -> str:
        """Why it is tested."""


# Of the others some need an operating system.
_WHY_LINUX = {
    "merged-pages": _HAS_EQUAL_PAGES,
}


def _of(test: str, kinds: Mapping[str, _Kind], **parameters: float) -> tuple[ProfileRow, ...]:
    """Return a row for each of some kinds of guest RAM, all tested by one method."""
    return tuple(
        ProfileRow(
            f"memory.{name}",
            f"{_TESTS}.{test}",
            kind.reason,
            {**SMALL, **parameters, "kind": name},
            # KSM is switched on for the whole host, so such a test runs alone.
            alone=name == "merged-pages",
            profiles=PREMERGE if name in _IN_PREMERGE else (),
            kinds=LINUX if name in _WHY_LINUX else ANY_GUEST,
            why_linux=_WHY_LINUX.get(name, ""),
        )
        for name, kind in kinds.items()
    )


# Shared memory leaves a marker in place of an entry.
_ANYWHERE = ("anonymous",)
_WAY_MEMORIES = {"swapped": (*_ANYWHERE, "memfd-shared"), "compacted": (*_ANYWHERE, "memfd-shared")}


def _entries_anew(name: str, memory: str) -> ProfileRow:
    """Return the row for a way in which the host makes page table entries anew, and a kind of RAM."""
    return ProfileRow(
        f"memory.{name}-while-saving{'' if memory in _ANYWHERE else f'-{memory}'}",
        f"{_TESTS}.test_entries_anew",
        HOST_WAYS[name].reason,
        {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST, "way": name, "memory": memory},
        # Swap space is of the whole host, and so is compaction.
        alone=name in _WAY_MEMORIES,
        kinds=ANY_GUEST,
    )


ROWS = (
    *_of("test_kind", MEMORY_KINDS),
    *_of("test_plugged", PLUGGED_KINDS),
    *_of("test_virtio_mem", VIRTIO_MEM_KINDS),
    *_of("test_host_pages", {name: kind for name, kind in HOST_PAGES.items() if name not in _WHY_LINUX}),
    # The file whose pages are merged needs RAM beside the writers'.
    *_of("test_host_pages", {"merged-pages": HOST_PAGES["merged-pages"]}, coverage=0.5),
    ProfileRow(
        "memory.never-touched",
        f"{_TESTS}.test_never_touched",
        "a page that is in no page table cannot be protected, and may be written (QEMU 6.0-rc lost them)",
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "memory.merged-while-saving",
        f"{_TESTS}.test_merged_while_saving",
        "merging makes a new entry in the page table, which must be protected like the old one",
        {**SMALL, "coverage": 0.5},
        alone=True,
        why_linux=_HAS_EQUAL_PAGES,
    ),
    *(_entries_anew(name, memory) for name in HOST_WAYS for memory in _WAY_MEMORIES.get(name, _ANYWHERE)),
    ProfileRow(
        "memory.above-4-gib",
        _SEEDS,
        "RAM on both sides of the hole below 4 GiB is one RAMBlock in two places",
        {"ram_mib": 4608, "coverage": 0.8},
        seconds=900,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "memory.odd-size",
        _SEEDS,
        "the size of RAM is no multiple of 2 MiB, nor of the 64 pages in a word of a bitmap",
        {"ram_mib": 257, "coverage": 0.7},
        kinds=ANY_GUEST,
    ),
)
