"""The kernel moves and merges pages under protection: collapse, compaction, KSM, NUMA, pins."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from pathlib import Path

from harness.userfaultfd import PAGE_BYTES, Feature, libc, read_pagemap

from ..memory import ANON, ANON_THP, HUGE_BYTES, MEMFD, SHMEM
from ..registry import KnownIssue, feature_test
from ..traps import Doer, marked, next_fault, release, write_passes, write_waits
from ..trial import Trial

_PAGES = HUGE_BYTES // PAGE_BYTES
# Where memory is not fragmented compaction finds little to do: of 8 MiB it moved none to 1000 pages.
_REGIONS = (2048, 8192, 32768)
_SAME = b"same" * (PAGE_BYTES // 4)


@feature_test("R14", memory=(ANON_THP,), needs=("collapse",), bugs=("dd47ac428c3f",))
def a_collapse_keeps_protection(trial: Trial) -> None:
    """MADV_COLLAPSE of a protected, split huge page fails or keeps each page's protection."""
    region, uffd = trial.protected(_PAGES)
    write_waits(trial, region, uffd, 9)
    try:
        libc.madvise(region.address, region.length, libc.MADV_COLLAPSE)
        trial.note("the pages were collapsed")
    except OSError as error:
        trial.note(f"the pages were not collapsed: {error}")
    for page in (8, 10, 0, _PAGES - 1):
        write_waits(trial, region, uffd, page)


@feature_test("R14", memory=(ANON_THP,), needs=("collapse",), bugs=("dd47ac428c3f",))
def a_collapse_in_a_race_keeps_protection(trial: Trial) -> None:
    """While one thread collapses pages over and over, another protects them: no protection is lost."""
    region, uffd = trial.region(_PAGES), trial.uffd()
    uffd.register(region.address, region.length)
    ending: list[bool] = []

    def collapse() -> int:
        count = 0
        while not ending:
            count += libc.LIBC.madvise(region.address, region.length, libc.MADV_COLLAPSE) == 0
        return count

    with Doer(trial, collapse) as doer:
        for turn in range(40):
            # Splits the huge page, so that there is something to collapse.
            libc.madvise(region.at(turn), PAGE_BYTES, libc.MADV_DONTNEED)
            region.store(turn * PAGE_BYTES, trial.golden(region, turn))
            uffd.write_protect(region.address, region.length)
            marked(trial, region, range(region.pages))
            uffd.write_protect(region.address, region.length, protect=False)
            marked(trial, region, [])
        uffd.write_protect(region.address, region.length)
        ending.append(True)
        trial.note(f"{doer.finish()} collapses")
    for page in (0, 1, 300):
        write_waits(trial, region, uffd, page)


@feature_test(
    "R16",
    memory=(ANON, SHMEM, MEMFD),
    needs=("compaction",),
    bugs=("624a2c94f5b7", "51d3d5eb74ff", "24bf08c4376b"),
    seconds=60,
)
def compaction_keeps_protection(trial: Trial) -> None:
    """Pages that the kernel moves to other frames stay protected and keep their content."""
    for pages in _REGIONS:
        region, uffd = trial.protected(pages)
        before = _frames(region.address, region.length)
        Path("/proc/sys/vm/compact_memory").write_text("1")
        after = _frames(region.address, region.length)
        moved = [page for page in range(region.pages) if before[page] and before[page] != after[page]]
        if moved:
            break
    else:
        trial.skip(f"Compaction moved none of {_REGIONS[-1]} pages.")
    trial.note(f"{len(moved)} of {len(before)} pages were moved")
    marked(trial, region, range(region.pages))
    trial.intact(region, moved)
    for page in moved[:16]:
        write_waits(trial, region, uffd, page)


def _frames(address: int, length: int) -> list[int]:
    return [entry.frame for entry in read_pagemap(address, length)]


@feature_test("R16", memory=(ANON, SHMEM), needs=("two-nodes",), bugs=("624a2c94f5b7",))
def moved_to_another_node_pages_stay_protected(trial: Trial) -> None:
    """move_pages(2) to another NUMA node keeps protection."""
    region, uffd = trial.protected()
    for node in (1, 0):
        pages = (ctypes.c_void_p * region.pages)(*[region.at(page) for page in range(region.pages)])
        nodes = (ctypes.c_int * region.pages)(*([node] * region.pages))
        status = (ctypes.c_int * region.pages)()
        # x86_64 and asm-generic numbers of move_pages.
        number = 279 if ctypes.sizeof(ctypes.c_long) == 8 and _x86() else 239
        done = libc.LIBC.syscall(number, 0, ctypes.c_ulong(region.pages), pages, nodes, status, 2)
        trial.equal(done, 0, "What move_pages returned")
        trial.note(f"on nodes {sorted(set(status))}")
    for page in range(region.pages):
        write_waits(trial, region, uffd, page)


def _x86() -> bool:
    return platform.machine() == "x86_64"


@feature_test(
    "R19",
    memory=(ANON,),
    needs=("ksm",),
    variants=("write", "unmerge"),
    seconds=90,
    known_issues=[
        KnownIssue(
            "KSM drops protection of the pages it merges (mm/ksm.c, replace_page())",
            "pagemap shows as protected",
        )
    ],
)
def merged_pages_stay_protected(trial: Trial, variant: str) -> None:
    """Equal pages that KSM merges while they are protected stay protected, merged or not."""
    region, uffd = trial.region(32), trial.uffd()
    for page in range(region.pages):
        region.store(page * PAGE_BYTES, _SAME)
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    libc.madvise(region.address, region.length, libc.MADV_MERGEABLE)
    _wait_until_merged(trial, region.pages)
    marked(trial, region, range(region.pages))
    if variant == "unmerge":
        with Doer(trial, libc.madvise, region.address, region.length, libc.MADV_UNMERGEABLE) as doer:
            while doer.waits(0.01):
                for event in uffd.read_events(0):
                    trial.note(f"unmerging was told: {event}")
                    uffd.write_protect(region.address, region.length, protect=False)
    with Doer(trial, libc.store, region.at(3), b"late") as doer:
        next_fault(trial, uffd, doer)
        trial.equal(region.load(3 * PAGE_BYTES, PAGE_BYTES), _SAME, "The page while its writer waits")
        release(uffd, region, 3)
    trial.equal(region.load(3 * PAGE_BYTES, 4), b"late", "What was written")
    trial.equal(region.load(4 * PAGE_BYTES, PAGE_BYTES), _SAME, "The page beside it")


def _wait_until_merged(trial: Trial, pages: int) -> None:
    """KSM needs three scans of all that is mergeable on the host before it merges a page."""
    stat = Path("/proc/self/ksm_merging_pages")
    if not stat.exists():
        trial.skip("The kernel does not tell what KSM has merged (ksm_merging_pages, 5.19).")
    end = time.monotonic() + 60
    while int(stat.read_text()) < pages:
        if time.monotonic() > end:
            trial.skip(f"KSM merged {stat.read_text().strip()} of {pages} equal pages in 60 s.")
        time.sleep(0.1)


@feature_test("R11", features=Feature.PAGEFAULT_FLAG_WP, needs=("root",), bugs=("5a2f8d22ace4",))
def pinned_pages_keep_protection_over_a_fork(trial: Trial) -> None:
    """A read-only long-term pin (gup_test) before a fork makes the kernel copy at once, bit included."""
    gup_test = Path("/sys/kernel/debug/gup_test")
    if not gup_test.exists():
        trial.skip("The kernel has no gup_test (CONFIG_GUP_TEST), or debugfs is not mounted.")
    region, uffd = trial.protected()
    with gup_test.open("r+b", buffering=0) as control:
        # mm/gup_test.h: PIN_LONGTERM_TEST_START, _IOW('g', 7, struct pin_longterm_test), which is addr, size,
        # flags.
        argument = (ctypes.c_uint64 * 3)(region.address, region.length, 0)
        done = libc.LIBC.ioctl(control.fileno(), 0x40186707, argument)
        if done != 0:
            trial.skip("gup_test does not pin (errno in its log).")
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        libc.LIBC.ioctl(control.fileno(), 0x6708, None)
    marked(trial, region, range(region.pages))
    write_waits(trial, region, uffd, 2)


@feature_test("R17", memory=(ANON,), needs=("two-nodes",), bugs=("51d3d5eb74ff",))
def numa_hints_keep_protection(trial: Trial) -> None:
    """NUMA balancing, which takes pages away to see who uses them, gives them back protected."""
    setting = Path("/proc/sys/kernel/numa_balancing")
    if not setting.exists() or setting.read_text().strip() == "0":
        trial.skip("NUMA balancing is switched off.")
    region, uffd = trial.protected(64)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        region.load()
    for page in range(region.pages):
        write_waits(trial, region, uffd, page)


@feature_test("R14", memory=(ANON, SHMEM))
def cold_pages_stay_protected(trial: Trial) -> None:
    """MADV_COLD and a page's ageing change nothing."""
    region, uffd = trial.protected()
    if libc.LIBC.madvise(region.address, region.length, 20) != 0:
        trial.skip("The kernel has no MADV_COLD (5.4).")
    write_waits(trial, region, uffd, 1)
    release(uffd, region, 2)
    write_passes(trial, region, uffd, 2, "was released")
