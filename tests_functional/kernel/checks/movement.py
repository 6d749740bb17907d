"""Feature tests of pages that the kernel moves or merges: collapse, compaction, KSM, NUMA, pins."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Feature, libc, read_pagemap

from ..calls import CallThread
from ..memory import ANON, ANON_THP, HUGE_BYTES, MEMFD, SHMEM
from ..oracle import (
    PAGEMAP_DIFFERS,
    check_pagemap,
    next_fault,
    release,
    write_passes,
    write_waits,
)
from ..registry import KernelIssue, feature_test
from ..trial import LimitReached, Trial

_PAGES = HUGE_BYTES // PAGE_BYTES
# Pages to try, one after the other.
_REGIONS = (2048, 8192, 32768)
_SAME = b"same" * (PAGE_BYTES // 4)
# Linux Documentation/admin-guide/mm/ksm.rst, and proc.rst of filesystems.
_MERGED, _SCANS = Path("/proc/self/ksm_merging_pages"), Path("/sys/kernel/mm/ksm/full_scans")
# Scans of all mergeable memory in which KSM merges no further page. It needs three before it merges one.
_VAIN_SCANS = 12
# How many times a test's patience one scan of this little memory may take.
_SCAN_PATIENCE = 3


@feature_test("R14", memory=(ANON_THP,), needs=("collapse",), bugs=("dd47ac428c3f",))
def a_collapse_keeps_protection(trial: Trial) -> None:
    """MADV_COLLAPSE of a protected, split huge page fails, or keeps the protection of each page."""
    region, uffd = trial.protected(_PAGES)
    write_waits(trial, region, uffd, 9)
    try:
        libc.madvise(region.address, region.length, libc.MADV_COLLAPSE)
        trial.note("the pages were collapsed")
    except OSError as error:
        trial.note(f"the pages were not collapsed: {error}")
    for page in (8, 10, 0, _PAGES - 1):
        write_waits(trial, region, uffd, page)


@feature_test("R14", memory=(ANON_THP,), needs=("collapse",), bugs=("dd47ac428c3f",), alone=True)
def a_collapse_in_a_race_keeps_protection(trial: Trial) -> None:
    """No protection is lost while one thread collapses pages and another protects them, over and over."""
    region, uffd = trial.region(_PAGES), trial.uffd()
    uffd.register(region.address, region.length)
    ending: list[bool] = []

    def collapse() -> int:
        count = 0
        while not ending:
            count += libc.LIBC.madvise(region.address, region.length, libc.MADV_COLLAPSE) == 0
        return count

    with CallThread(trial, collapse) as thread:
        for turn in range(40):
            # MADV_DONTNEED splits the huge page, so that it can be collapsed again.
            libc.madvise(region.at(turn), PAGE_BYTES, libc.MADV_DONTNEED)
            region.store(turn * PAGE_BYTES, trial.golden(region, turn))
            uffd.write_protect(region.address, region.length)
            check_pagemap(trial, region, range(region.pages))
            uffd.write_protect(region.address, region.length, protect=False)
            check_pagemap(trial, region, [])
        uffd.write_protect(region.address, region.length)
        ending.append(True)
        trial.note(f"{thread.finish()} collapses")
    for page in (0, 1, 300):
        write_waits(trial, region, uffd, page)


@feature_test(
    "R16",
    memory=(ANON, SHMEM, MEMFD),
    needs=("compaction",),
    bugs=("51d3d5eb74ff", "24bf08c4376b"),
    seconds=60,
)
def compaction_keeps_protection(trial: Trial) -> None:
    """Pages that compaction moves to other frames stay protected and keep their content."""
    for pages in _REGIONS:
        # Compaction moves pages out of blocks that are free in part: without holes few or none.
        with _holes(pages):
            region, uffd = trial.protected(pages)
        before = _frames(region.address, region.length)
        Path("/proc/sys/vm/compact_memory").write_text("1")
        after = _frames(region.address, region.length)
        moved = [page for page in range(region.pages) if before[page] and before[page] != after[page]]
        if moved:
            break
    else:
        trial.skip(f"Compaction moved none of {_REGIONS[-1]} pages on this host.")
    trial.note(f"{len(moved)} of {len(before)} pages were moved")
    check_pagemap(trial, region, range(region.pages))
    trial.check_content(region, moved)
    for page in moved[:16]:
        write_waits(trial, region, uffd, page)


@contextmanager
def _holes(pages: int) -> Iterator[None]:
    """Have memory with so many free pages that are no neighbours; the pages between are freed on leaving."""
    with mmap.mmap(-1, 2 * pages * PAGE_BYTES) as memory:
        with contextlib.suppress(OSError):
            # A kernel without huge pages refuses.
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        for offset in range(0, len(memory), PAGE_BYTES):
            memory[offset] = 1
        for offset in range(0, len(memory), 2 * PAGE_BYTES):
            memory.madvise(mmap.MADV_DONTNEED, offset, PAGE_BYTES)
        yield


def _frames(address: int, length: int) -> list[int]:
    return [entry.frame for entry in read_pagemap(address, length)]


@feature_test("R16", memory=(ANON, SHMEM), needs=("two-nodes",), bugs=("51d3d5eb74ff",))
def moved_to_another_node_pages_stay_protected(trial: Trial) -> None:
    """Pages that move_pages(2) moves to another NUMA node stay protected."""
    region, uffd = trial.protected()
    for node in (1, 0):
        pages = (ctypes.c_void_p * region.pages)(*[region.at(page) for page in range(region.pages)])
        nodes = (ctypes.c_int * region.pages)(*([node] * region.pages))
        status = (ctypes.c_int * region.pages)()
        done = libc.LIBC.syscall(
            move_pages_number(), 0, ctypes.c_ulong(region.pages), pages, nodes, status, 2
        )
        trial.equal(done, 0, "The result of move_pages")
        trial.note(f"the pages are on nodes {sorted(set(status))}")
    for page in range(region.pages):
        write_waits(trial, region, uffd, page)


def move_pages_number() -> int:
    """Return the number of move_pages(2): on x86_64, or of asm-generic/unistd.h."""
    return 279 if ctypes.sizeof(ctypes.c_long) == 8 and platform.machine() == "x86_64" else 239


@feature_test(
    "R19",
    memory=(ANON,),
    needs=("ksm",),
    variants=("write", "unmerge"),
    seconds=90,
    known_issues=[
        KernelIssue("KSM drops protection of the pages it merges (mm/ksm.c, replace_page())", PAGEMAP_DIFFERS)
    ],
)
def merged_pages_stay_protected(trial: Trial, variant: str) -> None:
    """Protected pages that KSM merges with equal ones stay protected, also after unmerging."""
    region, uffd = trial.region(32), trial.uffd()
    for page in range(region.pages):
        region.store(page * PAGE_BYTES, _SAME)
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    libc.madvise(region.address, region.length, libc.MADV_MERGEABLE)
    wait_until_merged(trial, region.pages)
    check_pagemap(trial, region, range(region.pages))
    if variant == "unmerge":
        with CallThread(trial, libc.madvise, region.address, region.length, libc.MADV_UNMERGEABLE) as thread:
            while thread.waits(0.01):
                for event in uffd.read_events(0):
                    trial.note(f"unmerging caused an event: {event}")
                    uffd.write_protect(region.address, region.length, protect=False)
    with CallThread(trial, libc.store, region.at(3), b"late") as thread:
        next_fault(trial, uffd, thread)
        trial.equal(region.load(3 * PAGE_BYTES, PAGE_BYTES), _SAME, "The content while the writer waits")
        release(uffd, region, 3)
    trial.equal(region.load(3 * PAGE_BYTES, 4), b"late", "The content of page 3")
    trial.equal(region.load(4 * PAGE_BYTES, PAGE_BYTES), _SAME, "The content of page 4")


def wait_until_merged(trial: Trial, pages: int, *, without: Callable[[], int] = lambda: 0) -> None:
    """Wait until KSM has merged so many pages; skip the test if it scans all memory often and merges none.

    It scans all mergeable memory three times before it merges a page. A thread that completes no scan has no
    processor, or hangs: that is an ERROR, long before the test's limit.

    Args:
        trial: the trial.
        pages: how many.
        without: returns how many of them have become equal without being merged.
    """
    if not _MERGED.exists():
        trial.skip("The kernel does not report how many pages KSM has merged (ksm_merging_pages, 5.19).")
    merged, since, last = -1, 0, -1
    begun = time.monotonic()
    while True:
        now, scan = int(_MERGED.read_text()) + without(), int(_SCANS.read_text())
        if now >= pages:
            return
        if scan != last:
            last, begun = scan, time.monotonic()
        waited = time.monotonic() - begun
        if waited > _SCAN_PATIENCE * trial.patience:
            raise LimitReached(
                f"KSM has completed no scan of mergeable memory for {waited:.0f} s: its thread (ksmd) "
                "gets no processor here, or hangs."
            )
        if now > merged:
            merged, since = now, scan
        if scan - since > _VAIN_SCANS:
            trial.skip(f"KSM merged {now} of {pages} equal pages, and no more in {_VAIN_SCANS} scans of all.")
        time.sleep(0.02)


@feature_test("R11", features=Feature.PAGEFAULT_FLAG_WP, needs=("root",), bugs=("5a2f8d22ace4",))
def pinned_pages_keep_protection_over_a_fork(trial: Trial) -> None:
    """Pages with a read-only long-term pin (gup_test), which fork copies at once, stay protected."""
    gup_test = Path("/sys/kernel/debug/gup_test")
    if not gup_test.exists():
        trial.skip("The kernel has no gup_test (CONFIG_GUP_TEST), or debugfs is not mounted.")
    region, uffd = trial.protected()
    with gup_test.open("r+b", buffering=0) as control:
        # mm/gup_test.h: PIN_LONGTERM_TEST_START is _IOW('g', 7, struct pin_longterm_test): addr, size, flags.
        argument = (ctypes.c_uint64 * 3)(region.address, region.length, 0)
        done = libc.LIBC.ioctl(control.fileno(), 0x40186707, argument)
        if done != 0:
            trial.skip(f"gup_test cannot pin the memory: {os.strerror(ctypes.get_errno())}.")
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        libc.LIBC.ioctl(control.fileno(), 0x6708, None)
    check_pagemap(trial, region, range(region.pages))
    write_waits(trial, region, uffd, 2)


@feature_test("R17", memory=(ANON,), needs=("two-nodes",), bugs=("51d3d5eb74ff",))
def numa_hints_keep_protection(trial: Trial) -> None:
    """NUMA balancing, which unmaps pages to see which node uses them, maps them protected again."""
    setting = Path("/proc/sys/kernel/numa_balancing")
    if not setting.exists() or setting.read_text().strip() == "0":
        trial.skip("NUMA balancing is off on this host (kernel.numa_balancing).")
    region, uffd = trial.protected(64)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        region.load()
    for page in range(region.pages):
        write_waits(trial, region, uffd, page)


@feature_test("R14", memory=(ANON, SHMEM))
def cold_pages_stay_protected(trial: Trial) -> None:
    """Pages stay protected after MADV_COLD, and a released one stays released."""
    region, uffd = trial.protected()
    if libc.LIBC.madvise(region.address, region.length, 20) != 0:
        trial.skip("The kernel has no MADV_COLD (5.4).")
    write_waits(trial, region, uffd, 1)
    release(uffd, region, 2)
    write_passes(trial, region, uffd, 2, "was released")
