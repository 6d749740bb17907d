"""Feature tests of asynchronous write protection (6.7): writes do not wait, and PAGEMAP_SCAN finds them."""

from __future__ import annotations

import errno
import os

from harness.userfaultfd import PAGE_BYTES, Feature, Region, Userfaultfd, libc, read_pagemap, scan
from harness.userfaultfd import pagemap as bits

from ..calls import CallThread
from ..memory import ANON, ANON_THP, FILE_PRIVATE, HUGETLB, MEMFD, SHMEM
from ..registry import feature_test
from ..trial import Trial
from .kernel_writers import filled_pipe

_ASYNC = Feature.WP_ASYNC | Feature.PAGEFAULT_FLAG_WP
_KINDS = (ANON, ANON_THP, SHMEM, MEMFD, HUGETLB, FILE_PRIVATE)
_NEEDS = ("scan",)
_FLAGS = bits.PM_SCAN_WP_MATCHING | bits.PM_SCAN_CHECK_WPASYNC


def _tracked(trial: Trial, pages: int = 8) -> tuple[Region, Userfaultfd]:
    region, uffd = trial.region(pages), trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    return region, uffd


def _written(region: Region, flags: int = _FLAGS) -> list[int]:
    found = scan(region.address, region.length, flags=flags, most_regions=region.length // PAGE_BYTES + 1)
    per = region.page_bytes // PAGE_BYTES
    return sorted({number // per for number in found.pages(region.address)})


@feature_test("R27", memory=_KINDS, features=_ASYNC, needs=_NEEDS)
def what_was_written_is_found(trial: Trial) -> None:
    """No write waits or causes an event, and a scan finds exactly the pages written since the last scan."""
    region, uffd = _tracked(trial)
    trial.equal(_written(region), [], "The pages found before any write")
    for pages in ([1, 6], [0, 1, 7], [3]):
        for page in pages:
            with CallThread(trial, libc.store, region.at(page), b"x") as thread:
                trial.check(not thread.waits(trial.patience), "A write waits under asynchronous protection.")
        trial.equal(_written(region), pages, "The pages found")
    trial.equal(_written(region), [], "The pages found without a write since the last scan")
    trial.equal(uffd.read_events(0), [], "The events")


@feature_test("R27", memory=_KINDS, features=_ASYNC, needs=_NEEDS)
def looking_changes_nothing(trial: Trial) -> None:
    """A scan without WP_MATCHING changes nothing: a second one finds the same pages."""
    region, _ = _tracked(trial)
    region.store(2 * region.page_bytes, b"x")
    for _ in range(2):
        trial.equal(_written(region, 0), [2], "The pages found")


@feature_test("R27", memory=(ANON, SHMEM, MEMFD), features=_ASYNC, needs=(*_NEEDS, "kernel-faults"))
def writes_of_the_kernel_are_found(trial: Trial) -> None:
    """A read(2) into asynchronously protected memory completes, and a scan finds its page."""
    region, _ = _tracked(trial)
    source = trial.enter(filled_pipe(b"data"))
    trial.equal(
        os.readv(source, [region.view[5 * PAGE_BYTES : 5 * PAGE_BYTES + 4]]), 4, "The result of readv"
    )
    trial.equal(_written(region), [5], "The pages found")


@feature_test("R27", memory=(ANON, SHMEM, HUGETLB), features=_ASYNC, needs=(*_NEEDS, "two-cpus"))
def no_update_is_lost(trial: Trial) -> None:
    """A tracker that copies each page a scan finds ends with the writer's last value: no write is missed."""
    region, _ = _tracked(trial)
    ending: list[bool] = []

    def count() -> int:
        value = 0
        while not ending:
            value += 1
            libc.store(region.at(1), value.to_bytes(8, "little"))
        return value

    copy = b""
    with CallThread(trial, count) as thread:
        for _ in range(300):
            if _written(region):
                copy = region.load(region.page_bytes, 8)
        ending.append(True)
        last = thread.finish()
    if _written(region):
        copy = region.load(region.page_bytes, 8)
    trial.equal(int.from_bytes(copy, "little"), last, "The counter in the last copy")
    trial.note(f"{last} writes, 300 scans")


@feature_test(
    "R27",
    memory=(ANON, SHMEM),
    features=_ASYNC,
    needs=(*_NEEDS, "swap", "pageout"),
    bugs=("2c7ad9a590d1",),
)
def swapped_pages_are_told_rightly(trial: Trial) -> None:
    """A scan finds a written page in swap space, and no unwritten one."""
    region, _ = _tracked(trial, 16)
    region.store(3 * PAGE_BYTES, b"x")
    libc.madvise(region.address, region.length, libc.MADV_PAGEOUT)
    out = sum(not entry.present for entry in read_pagemap(region.address, region.length))
    if not out:
        trial.skip("MADV_PAGEOUT moved no page to swap space.")
    trial.equal(_written(region, 0), [3], "The pages found")
    trial.note(f"{out} pages were in swap space")


@feature_test("R27", features=_ASYNC, needs=_NEEDS)
def scans_of_other_memory_are_refused(trial: Trial) -> None:
    """CHECK_WPASYNC fails with EPERM on memory without WP_ASYNC; unknown flags and categories with EINVAL."""
    plain = trial.region()
    trial.expect_errno(errno.EPERM, "A scan of plain memory", scan, plain.address, plain.length, flags=_FLAGS)
    region, _ = _tracked(trial)
    address, length = region.address, region.length
    trial.expect_errno(errno.EINVAL, "A scan with an unknown flag", scan, address, length, flags=1 << 20)
    trial.expect_errno(errno.EINVAL, "A scan for an unknown category", scan, address, length, mask=1 << 40)
    trial.expect_errno(errno.EINVAL, "A scan from an unaligned address", scan, address + 1, length)


@feature_test("R27", memory=(ANON,), features=_ASYNC, needs=_NEEDS)
def a_scan_goes_on_where_it_stopped(trial: Trial) -> None:
    """A scan that reaches its limit of regions tells where it stopped; the next finds the rest from there."""
    region, _ = _tracked(trial, 16)
    for page in range(0, 16, 2):
        region.store(page * PAGE_BYTES, b"x")
    found, place = [], region.address
    end = region.address + region.length
    while place < end:
        part = scan(place, end - place, flags=_FLAGS, most_regions=3)
        found += part.pages(region.address)
        trial.check(place < part.walk_end <= end, f"The scan from {place:#x} stopped at {part.walk_end:#x}.")
        place = part.walk_end
    trial.equal(found, list(range(0, 16, 2)), "The pages found")


@feature_test("R27", memory=(ANON, SHMEM), features=_ASYNC, needs=_NEEDS)
def a_child_is_not_tracked(trial: Trial) -> None:
    """A child's writes to its own copy do not count as writes of the parent."""
    region, _ = _tracked(trial)
    shared = trial.memory is SHMEM
    pid = os.fork()
    if pid == 0:
        if not shared:
            region.store(0, b"x")
        os._exit(0)
    os.waitpid(pid, 0)
    trial.equal(_written(region), [], "The pages found before the parent writes")
    region.store(PAGE_BYTES, b"x")
    trial.equal(_written(region), [1], "The pages found after the parent's write")
