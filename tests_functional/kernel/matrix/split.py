"""Ways that split large pages, or make one again of small ones."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from harness.userfaultfd import libc

from ..content import Content
from ..memory import MemoryType
from .subject import ONE, Expected, Subject
from .way import Way, first_of, only_anonymous, only_large

_DEBUGFS = Path("/sys/kernel/debug")
_SPLIT = _DEBUGFS / "split_huge_pages"
# linux/sched.h and linux/mount.h.
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x20000, 0x4000, 1 << 18

_BUG = "9658d698a8a8"


def _cold(subject: Subject) -> Expected:
    subject.advise(libc.MADV_COLD, "MADV_COLD (5.4)", ONE)
    return subject.expect()


def _free(subject: Subject) -> Expected:
    subject.advise(libc.MADV_FREE, "MADV_FREE", ONE)
    # The kernel may empty the page at any time from now on, which ends its protection.
    return subject.expect(away={ONE})


def _page_out(subject: Subject) -> Expected:
    subject.advise(libc.MADV_PAGEOUT, "MADV_PAGEOUT (5.4)", ONE)
    return subject.expect()


def _split(subject: Subject) -> Expected:
    trial, region = subject.trial, subject.region
    try:
        _mount_debugfs()
        with _SPLIT.open("w") as control:
            control.write(f"{os.getpid()},{region.address:#x},{region.address + region.length:#x}")
    except OSError as error:
        trial.skip(f"{_SPLIT} cannot be used on this host: {error}.")
    return subject.expect()


def _mount_debugfs() -> None:
    """Make debugfs visible to this process alone, which ends after the test."""
    if _SPLIT.exists():
        return
    libc.checked(libc.LIBC.unshare(_CLONE_NEWNS), "unshare")
    flags = ctypes.c_ulong(_MS_REC | _MS_PRIVATE)
    libc.checked(libc.LIBC.mount(b"none", b"/", None, flags, None), "mount")
    libc.checked(
        libc.LIBC.mount(b"none", str(_DEBUGFS).encode(), b"debugfs", ctypes.c_ulong(0), None), "mount"
    )


def _collapse(subject: Subject) -> Expected:
    # mprotect of one page splits the entry, so that there is something to collapse.
    libc.mprotect(subject.region.at(ONE), subject.region.page_bytes, libc.PROT_READ)
    libc.mprotect(subject.region.at(ONE), subject.region.page_bytes, libc.PROT_READ | libc.PROT_WRITE)
    try:
        libc.madvise(subject.region.address, subject.region.length, libc.MADV_COLLAPSE)
        subject.trial.note("the pages were collapsed")
    except OSError as error:
        subject.trial.note(f"the pages were not collapsed: {error}")
    return subject.expect()


def _collapsible(_content: Content, memory: MemoryType) -> str:
    if memory.name in ("anon-thp", "shmem-thp"):
        return ""
    return "its region is not aligned for a huge page, or its mapping is not made for one"


WAYS = (
    Way(
        "cold-one",
        "split",
        "MADV_COLD of one page, which splits a large page, leaves all of its pages protected.",
        "madvise_cold_or_pageout_pte_range(), remove_migration_pte()",
        _cold,
        reason=only_large,
        bugs=(_BUG,),
    ),
    Way(
        "free-one",
        "split",
        "MADV_FREE of one page, which splits a large page, leaves its other pages protected.",
        "madvise_free_pte_range(), remove_migration_pte()",
        _free,
        reason=first_of(only_large, only_anonymous),
        bugs=(_BUG,),
    ),
    Way(
        "pageout-one",
        "split",
        "MADV_PAGEOUT of one page, which splits a large page, leaves all of its pages protected.",
        "madvise_cold_or_pageout_pte_range(), remove_migration_pte()",
        _page_out,
        reason=only_large,
        needs=("pageout",),
        bugs=(_BUG,),
    ),
    Way(
        "split-all",
        "split",
        "A split of the large page itself (debugfs, split_huge_pages) leaves all of its pages protected.",
        "split_huge_page_to_list(), remove_migration_pte()",
        _split,
        reason=only_large,
        needs=("root",),
        bugs=(_BUG,),
        # It may mount debugfs in a namespace of its process.
        alone=True,
    ),
    Way(
        "collapse",
        "collapse",
        "MADV_COLLAPSE of protected small pages fails, or keeps the protection of each.",
        "collapse_huge_page(), collapse_pte_mapped_thp()",
        _collapse,
        reason=_collapsible,
        named={("own", "anon-thp"): "movement.anon-thp.a-collapse-keeps-protection"},
        needs=("collapse",),
        bugs=("dd47ac428c3f",),
    ),
)
