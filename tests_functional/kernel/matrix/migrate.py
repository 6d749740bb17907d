"""Ways that give pages other frames or take frames away: migration, poison, KSM, compaction, NUMA hints."""

from __future__ import annotations

import ctypes
import os
import signal

from harness.userfaultfd import libc, read_pagemap

from ..checks.movement import move_pages_number, wait_until_merged
from ..content import Content, zero_pages
from ..memory import HUGE, MemoryType
from ..oracle import PAGEMAP_DIFFERS, UNREPORTED
from ..registry import KernelIssue
from .subject import ONE, Expected, Subject
from .way import Way, no_frame, private_file

# linux/mempolicy.h.
_MOVE, _MOVE_ALL = 2, 4


def _migrate(subject: Subject) -> Expected:
    trial, region = subject.trial, subject.region
    flags = _MOVE_ALL if os.geteuid() == 0 else _MOVE
    moved: list[list[int]] = []
    for node in (1, 0):
        pages = (ctypes.c_void_p * region.pages)(*[region.at(page) for page in range(region.pages)])
        nodes = (ctypes.c_int * region.pages)(*([node] * region.pages))
        status = (ctypes.c_int * region.pages)()
        count = ctypes.c_ulong(region.pages)
        done = libc.LIBC.syscall(move_pages_number(), 0, count, pages, nodes, status, flags)
        libc.checked(int(done), "move_pages")
        moved.append(sorted(set(status)))
    trial.note(f"the pages were on nodes {moved[0]}, then on {moved[1]}")
    return subject.expect()


def _soft_offline(subject: Subject) -> Expected:
    subject.advise(libc.MADV_SOFT_OFFLINE, "MADV_SOFT_OFFLINE", ONE)
    return subject.expect()


def _poison(subject: Subject) -> Expected:
    """Poison the frame of one page; the kernel may send SIGBUS to the thread that asks for it."""
    before = signal.signal(signal.SIGBUS, lambda *_: None)
    try:
        subject.advise(libc.MADV_HWPOISON, "MADV_HWPOISON", ONE)
    finally:
        signal.signal(signal.SIGBUS, before)
    return subject.expect(away={ONE})


def _merge(subject: Subject) -> Expected:
    region = subject.region

    def zeroed() -> int:
        """Return how many pages map the zero page: a split before a merge maps it for zeros (6.12)."""
        return zero_pages(entry.frame for entry in read_pagemap(region.address, region.length)) or 0

    libc.madvise(region.address, region.length, libc.MADV_MERGEABLE)
    # The zero-filled pages are equal, which is every second one.
    wait_until_merged(subject.trial, region.pages // 2, without=zeroed)
    return subject.expect()


def _mergeable(content: Content, memory: MemoryType) -> str:
    if memory in HUGE:
        return "KSM leaves reserved huge pages alone"
    if not memory.name.startswith("anon") and not private_file(memory):
        return "KSM merges private memory only"
    if content.name in ("zero", "huge-zero"):
        return "KSM leaves the zero page alone"
    if content.name == "file":
        return "KSM merges anonymous pages, not those of a file"
    if content.name == "zero-filled" or (content.name, memory.name) == ("own", "anon"):
        return ""
    return "pages merge if they are equal, as the zero-filled ones are"


def _unmerged(content: Content, memory: MemoryType) -> str:
    if (content.name, memory.name) == ("own", "anon"):
        return ""
    return "unmerging is a write to each page, which the anonymous own pages stand for"


def _compacted(content: Content, memory: MemoryType) -> str:
    if content.name == "own" and memory.name in ("anon", "shmem", "memfd"):
        return ""
    return "compaction chooses the pages; it makes entries anew by the code of `migrate`"


def _hinted(content: Content, memory: MemoryType) -> str:
    if content.name == "own" and memory.name == "anon":
        return ""
    return "the hints come after seconds; they make entries anew by the code of `mprotect-none`"


_NAMED = "moved-to-another-node-pages-stay-protected"
# Without pagemap's bit, which came with the same series, a write shows it.
_MIGRATE = KernelIssue(
    "a migrated huge page is mapped unprotected, by remove_migration_pmd() (8f34f1eac382)",
    UNREPORTED,
    (5, 14),
    ("anon-thp",),
)
_KSM = KernelIssue("KSM drops protection of the pages it merges (mm/ksm.c, replace_page())", PAGEMAP_DIFFERS)

WAYS = (
    Way(
        "migrate",
        "migrate",
        "Pages that move_pages(2) moves to another NUMA node and back stay protected.",
        "try_to_migrate_one(), remove_migration_pte(), remove_migration_pmd()",
        _migrate,
        named={("own", name): f"movement.{name}.{_NAMED}" for name in ("anon", "shmem")},
        needs=("two-nodes",),
        bugs=("8f34f1eac382", "51d3d5eb74ff", "24bf08c4376b"),
        known_issues=(_MIGRATE,),
    ),
    Way(
        "compact",
        "migrate",
        "Pages that compaction moves to other frames stay protected.",
        "compact_zone(), remove_migration_pte()",
        reason=_compacted,
        named={
            ("own", name): f"movement.{name}.compaction-keeps-protection"
            for name in ("anon", "shmem", "memfd")
        },
    ),
    Way(
        "numa-hint",
        "migrate",
        "NUMA balancing, which unmaps pages to see which node uses them, maps them protected again.",
        "change_prot_numa(), do_numa_page()",
        reason=_hinted,
        named={("own", "anon"): "movement.anon.numa-hints-keep-protection"},
    ),
    Way(
        "soft-offline-one",
        "poison",
        "A page whose frame is taken offline (MADV_SOFT_OFFLINE) stays protected, and so do the others.",
        "soft_offline_page(), remove_migration_pte()",
        _soft_offline,
        reason=no_frame,
        needs=("poison",),
        bugs=("9658d698a8a8",),
    ),
    Way(
        "hwpoison-one",
        "poison",
        "Poison of the frame of one page (MADV_HWPOISON) leaves the other pages protected.",
        "memory_failure(), try_to_unmap_one()",
        _poison,
        reason=no_frame,
        needs=("poison",),
        bugs=("9658d698a8a8",),
    ),
    Way(
        "merge",
        "merge",
        "Protected pages that KSM merges with equal ones stay protected.",
        "replace_page()",
        _merge,
        reason=_mergeable,
        named={("own", "anon"): "movement.anon.merged-pages-stay-protected-write"},
        needs=("ksm",),
        known_issues=(_KSM,),
        seconds=90,
    ),
    Way(
        "unmerge",
        "merge",
        "Protected pages that KSM merged stay protected when they are unmerged.",
        "break_ksm()",
        reason=_unmerged,
        named={("own", "anon"): "movement.anon.merged-pages-stay-protected-unmerge"},
    ),
)
