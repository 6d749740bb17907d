"""Protection outlives what else is done to memory; where it does not, that is documented and asserted."""

from __future__ import annotations

import ctypes
import os
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

from ..memory import ANON, ANON_THP, HUGE, HUGETLB, MEMFD, PROTECTABLE, SHMEM, SMALL
from ..registry import KnownIssue, feature_test
from ..traps import (
    LATE,
    Doer,
    held,
    marked,
    next_fault,
    pagemap_has_bit,
    release,
    write_passes,
    write_waits,
)
from ..trial import Trial

_MAPPED = tuple(kind for kind in PROTECTABLE if not kind.zero)
_RW = libc.PROT_READ | libc.PROT_WRITE


def child_ends(trial: Trial, pid: int, what: str) -> int:
    """Wait for a child and return its exit code; it must end in time."""
    end = time.monotonic() + trial.patience
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            trial.check(False, f"{what} does not end: it still waits after {trial.patience:.0f} s.")
        time.sleep(0.005)


@feature_test(
    "R10",
    memory=_MAPPED,
    bugs=("8f34f1eac382", "5a2f8d22ace4", "49d6d7fb6313"),
    known_issues=[
        KnownIssue(
            "fork copies the bit of private huge pages (5a2f8d22ace4)",
            "does not end",
            (6, 4),
            ("hugetlb-private",),
        )
    ],
)
def a_child_is_not_protected(trial: Trial) -> None:
    """Without EVENT_FORK the child of a fork writes freely and has no bit set.

    The parent still waits, and is unharmed.
    """
    region, uffd = trial.protected()
    pid = os.fork()
    if pid == 0:
        bits = bool(protected_pages(region.address, region.length))
        region.store(2 * region.page_bytes, LATE)
        os._exit(1 if bits else 0)
    code = child_ends(trial, pid, "A child that writes to memory protected in its parent")
    trial.equal(code, 0, "Whether pages of the child are protected")
    trial.equal(uffd.read_events(0), [], "What was told of the child")
    shared = region.load(2 * region.page_bytes, len(LATE)) == LATE
    if not shared:
        trial.intact(region, [2])
        write_waits(trial, region, uffd, 2)
    write_waits(trial, region, uffd, 1)


@feature_test("R10", memory=(ANON, SHMEM), features=Feature.EVENT_FORK, bugs=("8f34f1eac382",))
def a_child_inherits_protection_if_agreed(trial: Trial) -> None:
    """With EVENT_FORK the child's writes wait for its own descriptor, which came with the event."""
    region, uffd = trial.region(), trial.uffd()
    # fork waits until its event is read, and os.fork() keeps the GIL: the monitor is a process of its own. It
    # is forked before anything is registered, so its own fork is not told.
    monitor = os.fork()
    if monitor == 0:
        os._exit(_monitor_child(uffd, region))
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    pid = os.fork()
    if pid == 0:
        region.store(2 * region.page_bytes, LATE)
        os._exit(0 if region.load(2 * region.page_bytes, len(LATE)) == LATE else 1)
    trial.equal(child_ends(trial, pid, "The child"), 0, "The child's exit code")
    trial.equal(
        child_ends(trial, monitor, "The monitor"), 0, "The monitor's exit code (1 no fork, 2 no WP fault)"
    )


def _monitor_child(uffd: Userfaultfd, region: Region) -> int:
    """0 if a fork was told and then a write of the child waited as WP."""
    events = uffd.read_events(5, most=1)
    if len(events) != 1 or not isinstance(events[0], Fork):
        return 1
    with Userfaultfd.adopt(events[0].descriptor, uffd.features) as child:
        faults = child.read_events(5, most=1)
        if len(faults) != 1 or not isinstance(faults[0], PageFault) or not faults[0].flags & FaultFlag.WP:
            return 2
        child.write_protect(region.at(2), region.page_bytes, protect=False)
    return 0


@feature_test(
    "R13", memory=_MAPPED, variants=("read", "none"), bugs=("51d3d5eb74ff", "f1eb1bacfba9", "fed15f1345dc")
)
def changed_permissions_keep_protection(trial: Trial, variant: str) -> None:
    """Permissions taken away by mprotect and given back do not open a protected page to writes."""
    region, uffd = trial.protected()
    for start, length in ((region.address, region.length), (region.at(2), region.page_bytes)):
        libc.mprotect(start, length, libc.PROT_READ if variant == "read" else libc.PROT_NONE)
        libc.mprotect(start, length, _RW)
    marked(trial, region, range(region.pages))
    for page in (0, 2, 3, region.pages - 1):
        write_waits(trial, region, uffd, page)


@feature_test("R13", memory=_MAPPED)
def permissions_can_change_before_the_release(trial: Trial) -> None:
    """A page released while its mapping is read-only is writable once the mapping is again."""
    region, uffd = trial.protected()
    libc.mprotect(region.address, region.length, libc.PROT_READ)
    release(uffd, region, 2)
    libc.mprotect(region.address, region.length, _RW)
    write_passes(trial, region, uffd, 2, "was released")
    write_waits(trial, region, uffd, 3)


@feature_test("R18", memory=(*SMALL, ANON_THP), bugs=("0cef0bb836e3",))
def moved_memory_is_not_protected(trial: Trial) -> None:
    """Without EVENT_REMAP mremap takes memory out of the userfaultfd.

    No bit, no wait, nothing told at the new place.
    """
    region, uffd = trial.protected()
    place = trial.enter(Region.anonymous(2 * region.length, align=2 << 20))
    flags = libc.MREMAP_MAYMOVE | libc.MREMAP_FIXED
    libc.mremap(region.address, region.length, region.length, flags, place.address)
    moved = Region(place.address, region.length, region.page_bytes)
    region.length = 0
    if pagemap_has_bit():
        trial.equal(protected_pages(moved.address, moved.length), [], "Protected pages at the new place")
    trial.intact(moved)
    write_passes(trial, moved, uffd, 2, "was moved away")


@feature_test("R18", memory=(*SMALL, ANON_THP), features=Feature.EVENT_REMAP)
def moved_memory_stays_protected_if_agreed(trial: Trial) -> None:
    """With EVENT_REMAP memory is protected at its new place too."""
    region, uffd = trial.protected()
    place = trial.enter(Region.anonymous(2 * region.length, align=2 << 20))
    flags = libc.MREMAP_MAYMOVE | libc.MREMAP_FIXED
    with Doer(trial, libc.mremap, region.address, region.length, region.length, flags, place.address) as doer:
        events = uffd.read_events(trial.patience)
        doer.finish()
    trial.equal([type(event).__name__ for event in events], ["Remap"], "The events of a move")
    moved = Region(place.address, region.length, region.page_bytes)
    region.length = 0
    marked(trial, moved, range(moved.pages))
    write_waits(trial, moved, uffd, 2)


@feature_test("R21", memory=(ANON, SHMEM, HUGETLB), bugs=("pre-5.7 single retry",), seconds=60)
def a_page_can_be_protected_over_and_over(trial: Trial) -> None:
    """Two hundred times protected and released under one writer: each write waits once, none fails."""
    region, uffd = trial.protected()
    for turn in range(200):
        word = turn.to_bytes(8, "little")
        with Doer(trial, libc.store, region.at(1), word) as doer:
            next_fault(trial, uffd, doer)
            release(uffd, region, 1)
        trial.equal(region.load(region.page_bytes, 8), word, "What was written")
        uffd.write_protect(region.at(1), region.page_bytes)


@feature_test("R20", memory=(ANON, ANON_THP), needs=("two-cpus",), bugs=("6ce64428d620",))
def no_write_is_lost_while_protection_changes(trial: Trial) -> None:
    """A word just written is never older when read again, while pages are protected, released and forked."""
    region, uffd = trial.region(), trial.uffd()
    uffd.register(region.address, region.length)
    pages = (0, 1, 2)
    ending: list[bool] = []
    lost: list[str] = []

    def write(page: int) -> int:
        count = 0
        while not ending:
            count += 1
            word = count.to_bytes(8, "little")
            libc.store(region.at(page), word)
            found = libc.load(region.at(page), 8)
            if found != word:
                lost.append(f"page {page}: wrote {count}, read {int.from_bytes(found, 'little')}")
        return count

    with Doer(trial, write, 0) as one, Doer(trial, write, 1) as two, Doer(trial, write, 2) as three:
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            uffd.write_protect(region.address, region.length)
            for event in uffd.read_events(0.001):
                if isinstance(event, PageFault):
                    release(uffd, region, (event.address - region.address) // region.page_bytes)
            # Over pages that are protected and pages that are not, which is what lost writes (fixed in 5.12).
            uffd.write_protect(region.address, region.length, protect=False)
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        ending.append(True)
        uffd.write_protect(region.address, region.length, protect=False)
        total = sum(doer.finish() for doer in (one, two, three))
    trial.equal(lost[:3], [], "Lost writes")
    trial.check(total > 3 * len(pages), "The writers hardly wrote.")
    trial.note(f"{total} writes")


@feature_test("R22", memory=(ANON,))
def emptied_pages_lose_protection(trial: Trial) -> None:
    """MADV_DONTNEED takes an anonymous page and its protection away: a write is not held. Documented.

    Balloons do this.
    """
    region, uffd = trial.protected()
    libc.madvise(region.at(2), PAGE_BYTES, libc.MADV_DONTNEED)
    marked(trial, region, [page for page in range(region.pages) if page != 2])
    write_passes(trial, region, uffd, 2, "was emptied by MADV_DONTNEED")
    write_waits(trial, region, uffd, 3)


@feature_test("R22", memory=(SHMEM, MEMFD))
def emptied_shared_pages_stay_protected(trial: Trial) -> None:
    """MADV_DONTNEED only unmaps a shared page, which keeps its content and its protection (5.19)."""
    region, uffd = trial.protected()
    libc.madvise(region.at(2), PAGE_BYTES, libc.MADV_DONTNEED)
    trial.intact(region, [2])
    write_waits(trial, region, uffd, 2)


@feature_test("R22", memory=(ANON, SHMEM, HUGETLB), features=Feature.EVENT_REMOVE)
def emptying_is_told_if_agreed(trial: Trial) -> None:
    """With EVENT_REMOVE MADV_DONTNEED waits until its event is read: a monitor can save the pages first."""
    region, uffd = trial.protected()
    size = region.page_bytes
    with Doer(trial, libc.madvise, region.at(2), size, libc.MADV_DONTNEED) as doer:
        trial.check(doer.waits(), "MADV_DONTNEED went on although nobody has read its event.")
        trial.intact(region, [2])
        trial.equal(uffd.read_events(trial.patience), [Remove(region.at(2), region.at(3))], "The event")


@feature_test("R22", memory=(ANON,), features=Feature.WP_UNPOPULATED)
def emptied_pages_lose_their_marker(trial: Trial) -> None:
    """Even with WP_UNPOPULATED MADV_DONTNEED drops an anonymous page's protection: documented."""
    region, uffd = trial.protected()
    libc.madvise(region.at(2), PAGE_BYTES, libc.MADV_DONTNEED)
    write_passes(trial, region, uffd, 2, "was emptied by MADV_DONTNEED")


@feature_test("R22", memory=(MEMFD, *HUGE[:1]))
def a_punched_hole_is_empty_and_can_be_written(trial: Trial) -> None:
    """fallocate(PUNCH_HOLE) under protected memory empties it.

    A write afterwards is held or not, and never hangs.
    """
    region, uffd = trial.protected()
    # linux/falloc.h: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
    size = region.page_bytes
    libc.checked(
        libc.LIBC.fallocate(region.descriptor, 3, ctypes.c_long(2 * size), ctypes.c_long(size)),
        "fallocate",
    )
    trial.equal(region.load(2 * size, 16), bytes(16), "A page that was punched out")
    with Doer(trial, libc.store, region.at(2), LATE) as doer:
        waited = held(trial, uffd, doer)
        if waited:
            next_fault(trial, uffd, doer)
            release(uffd, region, 2)
        doer.finish()
    trial.note("the write was held" if waited else "the write was not held")
    trial.equal(region.load(2 * size, len(LATE)), LATE, "What was written")
    write_waits(trial, region, uffd, 3)


@feature_test("R13", memory=(ANON, SHMEM))
def locked_memory_is_protected(trial: Trial) -> None:
    """Locking before and after protecting changes nothing, as QEMU with mem-lock does."""
    region = trial.region()
    uffd = trial.uffd()
    if libc.LIBC.mlock(ctypes.c_void_p(region.address), ctypes.c_size_t(region.length)) != 0:
        trial.skip("This user may not lock 8 pages.")
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    write_waits(trial, region, uffd, 1)
    libc.LIBC.munlock(ctypes.c_void_p(region.address), ctypes.c_size_t(region.length))
    write_waits(trial, region, uffd, 2)
