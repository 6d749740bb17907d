"""Feature tests of protection across fork, mprotect, mremap, mlock and madvise.

Where the kernel documents that one of them ends protection, the test asserts that.
"""

from __future__ import annotations

import ctypes
import os
import select
import time

from harness.userfaultfd import (
    PAGE_BYTES,
    FaultFlag,
    Feature,
    Fork,
    PageFault,
    Region,
    Remove,
    Userfaultfd,
    libc,
    protected_pages,
)

from ..calls import CallThread
from ..memory import ANON, ANON_THP, HUGE, HUGETLB, MEMFD, MEMFD_PRIVATE, PROTECTABLE, SHMEM, SMALL
from ..oracle import (
    LATE,
    blocked,
    check_pagemap,
    next_fault,
    pagemap_has_bit,
    release,
    write_passes,
    write_waits,
)
from ..registry import KernelIssue, feature_test
from ..trial import Trial

_MAPPED = tuple(kind for kind in PROTECTABLE if not kind.zero)
_RW = libc.PROT_READ | libc.PROT_WRITE


_CHILD_HANGS = "child-hangs"
CHILD_UNREPORTED = "child-unreported"
"""Code of a child's write that does not wait for the userfaultfd that its fork delivered."""

_NO_FAULT = 2
# Of each writer, while protection changes.
_LEAST_WRITES = 4


def wait_child(trial: Trial, pid: int, what: str) -> int:
    """Wait for a child and return its exit code, negative for a signal; assert that it ends in time.

    Args:
        trial: counts the checks.
        pid: of the child, which is killed if it does not end.
        what: names the child in the error, as the subject of a sentence.
    """
    end = time.monotonic() + trial.patience
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            trial.check(False, f"{what} does not end within {trial.patience:.0f} s.", _CHILD_HANGS)
        time.sleep(0.005)


@feature_test(
    "R10",
    memory=_MAPPED,
    bugs=("8f34f1eac382", "5a2f8d22ace4"),
    known_issues=[
        KernelIssue(
            "fork copies the protection bit of private huge pages (5a2f8d22ace4)",
            _CHILD_HANGS,
            (6, 4),
            ("hugetlb-private",),
        )
    ],
)
def a_child_is_not_protected(trial: Trial) -> None:
    """Without EVENT_FORK a child's memory is not protected after fork; the parent's stays protected."""
    region, uffd = trial.protected()
    pid = os.fork()
    if pid == 0:
        bits = bool(protected_pages(region.address, region.length))
        region.store(2 * region.page_bytes, LATE)
        os._exit(1 if bits else 0)
    code = wait_child(trial, pid, "A child that writes to memory protected in its parent")
    trial.equal(code, 0, "The child's exit code (1: pagemap shows protected pages)")
    trial.equal(uffd.read_events(0), [], "The events of the child's write")
    shared = region.load(2 * region.page_bytes, len(LATE)) == LATE
    if not shared:
        trial.check_content(region, [2])
        write_waits(trial, region, uffd, 2)
    write_waits(trial, region, uffd, 1)


@feature_test("R10", memory=(SHMEM, MEMFD_PRIVATE), bugs=("49d6d7fb6313",))
def a_child_gets_no_marker(trial: Trial) -> None:
    """Without EVENT_FORK a child does not inherit the protection of pages that are not there.

    Page tables of a file are copied only if the mapping has pages of its own.
    """
    region, uffd = trial.region(fill=False), trial.uffd()
    region.store(0, LATE)
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    pid = os.fork()
    if pid == 0:
        os._exit(1 if protected_pages(region.address, region.length) else 0)
    code = wait_child(trial, pid, "A child of a process with protected pages that are not there")
    trial.equal(code, 0, "The child's exit code (1: pagemap shows protected pages)")
    check_pagemap(trial, region, range(region.pages))


@feature_test("R10", memory=(ANON, SHMEM), features=Feature.EVENT_FORK, bugs=("8f34f1eac382",))
def a_child_inherits_protection_if_agreed(trial: Trial) -> None:
    """With EVENT_FORK a child's write waits for the userfaultfd that the fork event delivers."""
    region, uffd = trial.region(), trial.uffd()
    # fork waits until its event is read, and os.fork() keeps the GIL, so the monitor must be another process.
    # It is forked before any memory is registered, so that its own fork causes no event.
    over, writing = os.pipe2(os.O_CLOEXEC)
    monitor = os.fork()
    if monitor == 0:
        os.close(writing)
        os._exit(_monitor_child(uffd, region, over, trial.patience))
    os.close(over)
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    pid = os.fork()
    if pid == 0:
        region.store(2 * region.page_bytes, LATE)
        os._exit(0 if region.load(2 * region.page_bytes, len(LATE)) == LATE else 1)
    trial.equal(wait_child(trial, pid, "The child"), 0, "The child's exit code")
    os.close(writing)
    code = wait_child(trial, monitor, "The monitor")
    trial.equal(
        code,
        0,
        "The monitor's exit code (1 no fork, 2 no WP fault)",
        CHILD_UNREPORTED if code == _NO_FAULT else "",
    )


def _monitor_child(uffd: Userfaultfd, region: Region, over: int, patience: float) -> int:
    """Read a fork event, release the child's write; return 0, or 1 without the fork, 2 without the write.

    The pipe `over` ends when the child has. A child whose write did not wait ends without an event, and a
    wait for that event would end no earlier than the parent's wait for this process.
    """
    events = uffd.read_events(patience, most=1)
    if len(events) != 1 or not isinstance(events[0], Fork):
        return 1
    with Userfaultfd.adopt(events[0].descriptor, uffd.features) as child:
        select.select([child.fileno(), over], [], [], patience)
        faults = child.read_events(0, most=1)
        if len(faults) != 1 or not isinstance(faults[0], PageFault) or not faults[0].flags & FaultFlag.WP:
            return _NO_FAULT
        child.write_protect(region.at(2), region.page_bytes, protect=False)
    return 0


@feature_test(
    "R13", memory=_MAPPED, variants=("read", "none"), bugs=("51d3d5eb74ff", "f1eb1bacfba9", "fed15f1345dc")
)
def changed_permissions_keep_protection(trial: Trial, variant: str) -> None:
    """A page stays protected when mprotect takes its permissions away and gives them back."""
    region, uffd = trial.protected()
    for start, length in ((region.address, region.length), (region.at(2), region.page_bytes)):
        libc.mprotect(start, length, libc.PROT_READ if variant == "read" else libc.PROT_NONE)
        libc.mprotect(start, length, _RW)
    check_pagemap(trial, region, range(region.pages))
    for page in (0, 2, 3, region.pages - 1):
        write_waits(trial, region, uffd, page)


@feature_test("R13", memory=_MAPPED)
def permissions_can_change_before_the_release(trial: Trial) -> None:
    """A page that is released while its mapping is read-only can be written once the mapping is writable."""
    region, uffd = trial.protected()
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    release(uffd, region, 2)
    libc.mprotect(region.address, region.length, _RW)
    write_passes(trial, region, uffd, 2, "was released")
    write_waits(trial, region, uffd, 3)


@feature_test("R18", memory=(*SMALL, ANON_THP), bugs=("0cef0bb836e3",))
def moved_memory_is_not_protected(trial: Trial) -> None:
    """Without EVENT_REMAP memory that mremap moves is no longer registered or protected."""
    region, uffd = trial.protected()
    place = trial.enter(Region.anonymous(2 * region.length, align=2 << 20))
    flags = libc.MREMAP_MAYMOVE | libc.MREMAP_FIXED
    libc.mremap(region.address, region.length, region.length, flags, place.address)
    moved = Region(place.address, region.length, region.page_bytes)
    region.length = 0
    if pagemap_has_bit():
        trial.equal(protected_pages(moved.address, moved.length), [], "The protected pages after the move")
    trial.check_content(moved)
    write_passes(trial, moved, uffd, 2, "was moved by mremap")


@feature_test("R18", memory=(*SMALL, ANON_THP), features=Feature.EVENT_REMAP)
def moved_memory_stays_protected_if_agreed(trial: Trial) -> None:
    """With EVENT_REMAP memory that mremap moves stays protected."""
    region, uffd = trial.protected()
    place = trial.enter(Region.anonymous(2 * region.length, align=2 << 20))
    flags = libc.MREMAP_MAYMOVE | libc.MREMAP_FIXED
    with CallThread(
        trial, libc.mremap, region.address, region.length, region.length, flags, place.address
    ) as thread:
        events = uffd.read_events(trial.patience)
        thread.finish()
    trial.equal([type(event).__name__ for event in events], ["Remap"], "The events of a move")
    moved = Region(place.address, region.length, region.page_bytes)
    region.length = 0
    check_pagemap(trial, moved, range(moved.pages))
    write_waits(trial, moved, uffd, 2)


@feature_test("R21", memory=(ANON, SHMEM, HUGETLB), bugs=("pre-5.7 single retry",), seconds=60)
def a_page_can_be_protected_over_and_over(trial: Trial) -> None:
    """A page can be protected and released 200 times; each write in between waits once and completes."""
    region, uffd = trial.protected()
    for turn in range(200):
        word = turn.to_bytes(8, "little")
        with CallThread(trial, libc.store, region.at(1), word) as thread:
            next_fault(trial, uffd, thread)
            release(uffd, region, 1)
        trial.equal(region.load(region.page_bytes, 8), word, "The content of page 1")
        uffd.write_protect(region.at(1), region.page_bytes)


@feature_test("R20", memory=(ANON, ANON_THP), needs=("two-cpus",), bugs=("6ce64428d620",))
def no_write_is_lost_while_protection_changes(trial: Trial) -> None:
    """A thread reads back each word that it writes, while its pages are protected, released and forked."""
    region, uffd = trial.region(), trial.uffd()
    uffd.register(region.address, region.length)
    pages = (0, 1, 2)
    ending: list[bool] = []
    lost: list[str] = []
    written = dict.fromkeys(pages, 0)

    def write(page: int) -> None:
        while not ending:
            written[page] = count = written[page] + 1
            word = count.to_bytes(8, "little")
            libc.store(region.at(page), word)
            found = libc.load(region.at(page), 8)
            if found != word:
                lost.append(f"page {page}: wrote {count}, read {int.from_bytes(found, 'little')}")

    with (
        CallThread(trial, write, 0) as one,
        CallThread(trial, write, 1) as two,
        CallThread(trial, write, 2) as three,
    ):
        end = time.monotonic() + 0.8
        # A busy host does not run a writer for long. If one never goes on, the test runs out of time.
        while time.monotonic() < end or min(written.values()) < _LEAST_WRITES:
            uffd.write_protect(region.address, region.length)
            for event in uffd.read_events(0.001):
                if isinstance(event, PageFault):
                    release(uffd, region, (event.address - region.address) // region.page_bytes)
            # One release over protected and unprotected pages; it lost writes until 5.12.
            uffd.write_protect(region.address, region.length, protect=False)
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        ending.append(True)
        uffd.write_protect(region.address, region.length, protect=False)
        for thread in (one, two, three):
            thread.finish()
    trial.equal(lost[:3], [], "Lost writes")
    trial.note(f"{sum(written.values())} writes")


@feature_test("R22", memory=(ANON,))
def emptied_pages_lose_protection(trial: Trial) -> None:
    """MADV_DONTNEED ends the protection of an anonymous page: a write to it passes.

    The kernel documents this. Balloon devices use MADV_DONTNEED.
    """
    region, uffd = trial.protected()
    libc.madvise(region.at(2), PAGE_BYTES, libc.MADV_DONTNEED)
    check_pagemap(trial, region, [page for page in range(region.pages) if page != 2])
    write_passes(trial, region, uffd, 2, "was emptied by MADV_DONTNEED")
    write_waits(trial, region, uffd, 3)


@feature_test("R22", memory=(SHMEM, MEMFD))
def emptied_shared_pages_stay_protected(trial: Trial) -> None:
    """A shared page keeps its content and protection after MADV_DONTNEED, which only unmaps it (5.19)."""
    region, uffd = trial.protected()
    libc.madvise(region.at(2), PAGE_BYTES, libc.MADV_DONTNEED)
    trial.check_content(region, [2])
    write_waits(trial, region, uffd, 2)


@feature_test("R22", memory=(ANON, SHMEM, HUGETLB), features=Feature.EVENT_REMOVE)
def emptying_is_told_if_agreed(trial: Trial) -> None:
    """With EVENT_REMOVE MADV_DONTNEED waits until its event is read, so the pages can be saved first."""
    region, uffd = trial.protected()
    size = region.page_bytes
    with CallThread(trial, libc.madvise, region.at(2), size, libc.MADV_DONTNEED) as thread:
        trial.check(thread.waits(), "MADV_DONTNEED returned before its event was read.")
        trial.check_content(region, [2])
        trial.equal(uffd.read_events(trial.patience), [Remove(region.at(2), region.at(3))], "The events")


@feature_test("R22", memory=(ANON,), features=Feature.WP_UNPOPULATED)
def emptied_pages_lose_their_marker(trial: Trial) -> None:
    """Even with WP_UNPOPULATED MADV_DONTNEED ends the protection of an anonymous page.

    The kernel documents this.
    """
    region, uffd = trial.protected()
    libc.madvise(region.at(2), PAGE_BYTES, libc.MADV_DONTNEED)
    write_passes(trial, region, uffd, 2, "was emptied by MADV_DONTNEED")


@feature_test("R22", memory=(MEMFD, *HUGE[:1]))
def a_punched_hole_is_empty_and_can_be_written(trial: Trial) -> None:
    """After fallocate(PUNCH_HOLE) on a protected page it reads as zeros, and a write to it completes.

    The write may wait for a release or not.
    """
    region, uffd = trial.protected()
    # linux/falloc.h: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
    size = region.page_bytes
    libc.checked(
        libc.LIBC.fallocate(region.descriptor, 3, ctypes.c_long(2 * size), ctypes.c_long(size)),
        "fallocate",
    )
    trial.equal(region.load(2 * size, 16), bytes(16), "The content of the page in the hole")
    with CallThread(trial, libc.store, region.at(2), LATE) as thread:
        waited = blocked(trial, uffd, thread)
        if waited:
            next_fault(trial, uffd, thread)
            release(uffd, region, 2)
        thread.finish()
    trial.note("the write waited" if waited else "the write did not wait")
    trial.equal(region.load(2 * size, len(LATE)), LATE, "The content of page 2")
    write_waits(trial, region, uffd, 3)


@feature_test("R13", memory=(ANON, SHMEM))
def locked_memory_is_protected(trial: Trial) -> None:
    """Memory that is locked by mlock, as QEMU's with mem-lock, is protected, also after munlock."""
    region = trial.region()
    uffd = trial.uffd()
    if libc.LIBC.mlock(ctypes.c_void_p(region.address), ctypes.c_size_t(region.length)) != 0:
        trial.skip("This user may not lock 8 pages.")
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    write_waits(trial, region, uffd, 1)
    libc.LIBC.munlock(ctypes.c_void_p(region.address), ctypes.c_size_t(region.length))
    write_waits(trial, region, uffd, 2)
