"""Feature tests of write protection on every type of memory and against every kind of store."""

from __future__ import annotations

import ctypes
import errno
import os

from harness.userfaultfd import PAGE_BYTES, Feature, Mode, Region, libc, scan
from harness.userfaultfd import pagemap as pagemap_bits

from ..calls import CallThread
from ..golden import ZERO_OFFSET
from ..memory import (
    ANON,
    ANON_THP,
    HUGETLB,
    HUGETLB_PRIVATE,
    MEMFD,
    MEMFD_PRIVATE,
    PROTECTABLE,
    SHMEM,
    SMALL,
)
from ..needs import missing_need
from ..oracle import (
    all_wait,
    check_pagemap,
    next_fault,
    page_of,
    release,
    write_passes,
    write_waits,
)
from ..registry import feature_test
from ..trial import Trial

_WP = Feature.PAGEFAULT_FLAG_WP


def _byte(address: int) -> None:
    libc.fill(address, 1, 0x5A)


def _atomic(address: int) -> None:
    """Do an atomic read-modify-write: lock a pthread mutex, which is unlocked while all its bytes are 0."""
    libc.LIBC.pthread_mutex_trylock(ctypes.c_void_p(address))


@feature_test("R07", memory=PROTECTABLE, variants=("byte", "page", "atomic"))
def a_write_waits(trial: Trial, variant: str) -> None:
    """A store of a byte or page, and an atomic change, wait for the release, with one event each."""
    region, uffd = trial.protected()
    if variant == "byte":
        write_waits(trial, region, uffd, 1, write=_byte, offset=region.page_bytes - 1)
    elif variant == "page":
        write_waits(trial, region, uffd, 1, write=lambda at: libc.fill(at, region.page_bytes, 0x5A))
    else:
        write_waits(trial, region, uffd, 1, write=_atomic, offset=ZERO_OFFSET)
    trial.equal(uffd.read_events(0), [], "Further events")
    trial.check_content(region, set(range(region.pages)) - {1})


@feature_test("R07", memory=PROTECTABLE)
def a_store_across_two_pages_waits_for_both(trial: Trial) -> None:
    """A store across two pages waits for both, and changes neither before both are released."""
    region, uffd = trial.protected()
    with CallThread(trial, libc.store, region.at(3) - 4, b"12345678") as thread:
        seen: set[int] = set()
        for _ in range(2):
            page = page_of(region, next_fault(trial, uffd, thread))
            trial.check_content(region, {2, 3} - seen)
            seen.add(page)
            release(uffd, region, page)
        trial.equal(seen, {2, 3}, "The pages of the events")
    trial.equal(region.load(3 * region.page_bytes - 4, 8), b"12345678", "The content at the border")


@feature_test("R07", memory=PROTECTABLE, bugs=("8f34f1eac382", "f1eb1bacfba9"))
def each_page_waits_once_and_only_protected_ones(trial: Trial) -> None:
    """Each write to a protected page causes exactly one event; after the release its page can be written."""
    region, uffd = trial.protected()
    check_pagemap(trial, region, range(region.pages))
    pages = range(0, region.pages, max(1, region.pages // 16))
    all_wait(trial, region, uffd, pages)
    check_pagemap(trial, region, sorted(set(range(region.pages)) - set(pages)))
    for page in pages:
        write_passes(trial, region, uffd, page, "was released")
    trial.check_content(region, sorted(set(range(region.pages)) - set(pages)))


@feature_test("R07", memory=PROTECTABLE)
def reads_do_not_wait(trial: Trial) -> None:
    """Reads of a protected page do not wait and cause no event."""
    region, uffd = trial.protected()
    with CallThread(trial, region.load) as thread:
        trial.check(not thread.waits(trial.patience), "A read waits on a protected page.")
    trial.equal(uffd.read_events(0), [], "The events of a read")
    trial.check_content(region)


@feature_test("R07", memory=PROTECTABLE)
def a_part_can_be_protected(trial: Trial) -> None:
    """If a part of a region is protected, writes outside of it pass, even next to it."""
    region, uffd = trial.region(), trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.at(2), 3 * region.page_bytes)
    check_pagemap(trial, region, [2, 3, 4])
    for page in (1, 5):
        write_passes(trial, region, uffd, page)
    for page in (2, 4):
        write_waits(trial, region, uffd, page)


@feature_test("R12", memory=(ANON_THP,), bugs=("8f34f1eac382",))
def a_huge_page_is_split_by_its_first_write(trial: Trial) -> None:
    """A release of one page of a protected huge page leaves its other 511 pages protected."""
    region, uffd = trial.protected()
    check_pagemap(trial, region, range(region.pages))
    write_waits(trial, region, uffd, 100)
    check_pagemap(trial, region, [page for page in range(region.pages) if page != 100])
    for page in (99, 101, 0, region.pages - 1):
        write_waits(trial, region, uffd, page)


@feature_test("R12", memory=(ANON_THP,))
def one_page_of_a_huge_page_can_be_protected(trial: Trial) -> None:
    """If 4 KiB of a huge page are protected, writes to them wait, and writes to the rest pass."""
    region, uffd = trial.region(), trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.at(7), PAGE_BYTES)
    check_pagemap(trial, region, [7])
    for page in (6, 8, 511):
        write_passes(trial, region, uffd, page)
    write_waits(trial, region, uffd, 7)


@feature_test("R08", memory=(ANON,))
def pages_that_are_not_there_are_passed_over(trial: Trial) -> None:
    """Without WP_UNPOPULATED (6.4), protection of unpopulated anonymous memory succeeds without effect.

    The kernel documents this.
    """
    region, uffd = trial.region(fill=False), trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    write_passes(trial, region, uffd, 2, "was unpopulated when it was protected")


@feature_test("R08", memory=(ANON,), variants=("advice", "loop"))
def pages_that_were_read_are_protected(trial: Trial, variant: str) -> None:
    """Pages populated by MADV_POPULATE_READ (5.14) or a read can be protected (QEMU commit 8c6fdc619e6e)."""
    region, uffd = trial.region(fill=False), trial.uffd()
    if variant == "advice":
        if missing_need("populate-read"):
            trial.skip(missing_need("populate-read"))
        libc.madvise(region.address, region.length, libc.MADV_POPULATE_READ)
    else:
        for page in range(region.pages):
            region.load(page * region.page_bytes, 1)
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    check_pagemap(trial, region, range(region.pages))
    for page in range(region.pages):
        with CallThread(trial, libc.store, region.at(page), b"x") as thread:
            trial.equal(page_of(region, next_fault(trial, uffd, thread)), page, "The page of the fault")
            trial.equal(
                region.load(page * PAGE_BYTES, PAGE_BYTES),
                bytes(PAGE_BYTES),
                "The page while its writer waits",
            )
            release(uffd, region, page)


@feature_test("R08", memory=(ANON,), features=Feature.WP_UNPOPULATED)
def pages_that_are_not_there_are_protected_if_agreed(trial: Trial) -> None:
    """With WP_UNPOPULATED (6.4), a write to an unpopulated protected page waits, even after a read of it."""
    region, uffd = trial.region(fill=False), trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    check_pagemap(trial, region, range(region.pages))
    trial.equal(region.load(3 * PAGE_BYTES, 8), bytes(8), "The content of an unpopulated protected page")
    for page in (2, 3):
        with CallThread(trial, libc.store, region.at(page), b"x") as thread:
            trial.equal(page_of(region, next_fault(trial, uffd, thread)), page, "The page of the fault")
            release(uffd, region, page)
        trial.equal(region.load(page * PAGE_BYTES, 1), b"x", f"The content of page {page}")


@feature_test("R08", memory=(SHMEM, MEMFD, HUGETLB))
def shared_pages_that_are_not_there_are_protected(trial: Trial) -> None:
    """In shared memory a write to an unpopulated protected page waits: its PTE is a marker (5.19)."""
    _a_store_to_an_empty_page_waits(trial)


@feature_test("R08", memory=(MEMFD_PRIVATE, HUGETLB_PRIVATE), bugs=("60d5b473d61b",))
def private_pages_that_are_not_there_are_protected(trial: Trial) -> None:
    """In a private mapping of a file a write to an unpopulated protected page waits as well."""
    _a_store_to_an_empty_page_waits(trial)


def _a_store_to_an_empty_page_waits(trial: Trial) -> None:
    region, uffd = trial.region(fill=False), trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    with CallThread(trial, libc.store, region.at(2), b"x") as thread:
        trial.equal(page_of(region, next_fault(trial, uffd, thread)), 2, "The page of the fault")
        release(uffd, region, 2)
    trial.equal(region.load(2 * region.page_bytes, 1), b"x", "The content of page 2")


@feature_test(
    "R08",
    memory=(SHMEM, MEMFD, MEMFD_PRIVATE, HUGETLB, HUGETLB_PRIVATE),
    variants=("twice", "ended"),
    bugs=("0e678153f5be",),
)
def protection_of_pages_that_are_not_there_can_change(trial: Trial, variant: str) -> None:
    """Unpopulated pages can be protected a second time, and be released; a new page is all zeros."""
    region, uffd = trial.region(fill=False), trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    if variant == "twice":
        uffd.write_protect(region.address, region.length)
        check_pagemap(trial, region, range(region.pages))
        with CallThread(trial, libc.store, region.at(2), b"x") as thread:
            trial.equal(page_of(region, next_fault(trial, uffd, thread)), 2, "The page of the fault")
            release(uffd, region, 2)
    else:
        release(uffd, region, 2)
        check_pagemap(trial, region, [page for page in range(region.pages) if page != 2])
        write_passes(trial, region, uffd, 2, "was released before it was there")
    trial.equal(region.load(3 * region.page_bytes, 8), bytes(8), "The content of a page that was not there")


@feature_test("R09", memory=(*SMALL, HUGETLB))
def a_copied_page_arrives_protected(trial: Trial) -> None:
    """UFFDIO_COPY with COPY_MODE_WP maps a page protected, or fails with EINVAL if WP is not registered."""
    region, uffd = trial.region(fill=False), trial.uffd()
    source = trial.enter(Region.anonymous(region.page_bytes))
    source.store(0, trial.golden(region, 2))
    uffd.register(region.address, region.length, Mode.MISSING)
    size = region.page_bytes
    trial.expect_errno(
        errno.EINVAL,
        "COPY_MODE_WP without WP",
        uffd.copy,
        region.at(1),
        source.address,
        size,
        write_protect=True,
    )
    uffd.unregister(region.address, region.length)
    uffd.register(region.address, region.length, Mode.MISSING | Mode.WP)
    uffd.copy(region.at(2), source.address, size, write_protect=True)
    write_waits(trial, region, uffd, 2)


@feature_test("R09", memory=(SHMEM,), features=Feature.MINOR_SHMEM | Feature.WP_UNPOPULATED)
def a_continued_page_arrives_protected(trial: Trial) -> None:
    """UFFDIO_CONTINUE with CONTINUE_MODE_WP (6.4) maps a page of the page cache protected."""
    region, uffd = trial.enter(Region.memfd(8 * PAGE_BYTES)), trial.uffd()
    with Region.file(os.dup(region.descriptor), region.length, shared=True) as alias:
        trial.fill(alias)
    uffd.register(region.address, region.length, Mode.MINOR | Mode.WP)
    uffd.continue_(region.at(2), PAGE_BYTES, write_protect=True)
    write_waits(trial, region, uffd, 2)


@feature_test("R07", memory=PROTECTABLE, needs=("scan",))
def the_two_views_of_a_page_agree(trial: Trial) -> None:
    """PAGEMAP_SCAN reports exactly the pages as written that pagemap does not show as protected."""
    region, uffd = trial.protected()
    for page in (1, 4):
        release(uffd, region, page)
    found = scan(region.address, region.length, mask=pagemap_bits.PAGE_IS_WRITTEN)
    per = region.page_bytes // PAGE_BYTES
    trial.equal(sorted({number // per for number in found.pages(region.address)}), [1, 4], "The pages found")
    check_pagemap(trial, region, [page for page in range(region.pages) if page not in {1, 4}])
