"""Shared checks of the feature tests: a write to a protected page causes an event and waits for the release.

`write_waits` lets a thread write to a protected page and checks all of this; `write_passes` checks the
opposite.
"""

from __future__ import annotations

import functools
import time
from typing import Any, Callable

from harness.userfaultfd import (
    PAGE_BYTES,
    FaultFlag,
    Feature,
    Mode,
    PageFault,
    Region,
    Userfaultfd,
    libc,
    protected_pages,
    read_pagemap,
)

from .calls import CallThread
from .trial import CheckFailed, Trial

LATE = b"written after the snapshot began"
"""The bytes that tests write to protected pages."""

_WRITE_WP = FaultFlag.WRITE | FaultFlag.WP

UNREPORTED = "unreported-write"
"""Code of a write to a protected page that completed without an event."""

PAGEMAP_DIFFERS = "pagemap-differs"
"""Code of pages whose protection in pagemap is not as expected."""


def next_fault(trial: Trial, uffd: Userfaultfd, thread: CallThread | None = None) -> PageFault:
    """Return the next event, which must be a page fault and come at once.

    Args:
        trial: counts the checks.
        uffd: the monitor.
        thread: the thread whose fault is expected; tells a write that completed from one that waits silently.
    """
    events = uffd.read_events(trial.patience, most=1)
    if not events and thread and not thread.waits(0):
        if thread.error:
            raise CheckFailed(f"A write to a protected page failed: {thread.error}.")
        raise CheckFailed("A write to a protected page completed without an event.", UNREPORTED)
    trial.check(events, "A thread waits, but the userfaultfd has no event.")
    event = events[0]
    if not isinstance(event, PageFault):
        raise CheckFailed(f"The event is {event}, expected a page fault.")
    return event


def blocked(trial: Trial, uffd: Userfaultfd, thread: CallThread) -> bool:
    """Wait until a thread faults or its call returns; return whether it faulted."""
    end = time.monotonic() + trial.patience
    while thread.waits(0) and time.monotonic() < end:
        if uffd.readable(0.02):
            return True
    # A thread that does neither waits without an event; next_fault() says so.
    return uffd.readable(0) or thread.waits(0)


def page_of(region: Region, event: PageFault) -> int:
    """Return the number of the page of a fault; kernels before 5.18 may leave low bits in the address."""
    return (event.address - region.address) // region.page_bytes


def release(uffd: Userfaultfd, region: Region, page: int) -> None:
    """Release one page, which wakes its writer."""
    uffd.write_protect(region.at(page), region.page_bytes, protect=False)


def write_waits(
    trial: Trial,
    region: Region,
    uffd: Userfaultfd,
    page: int,
    *,
    write: Callable[[int], Any] | None = None,
    offset: int = 0,
    changes: bool = True,
) -> Any:
    """Let a thread write to a protected page, and check that the write waits for the release.

    Checked: the fault is reported with the flags WRITE and WP and the page's address; while the write waits,
    the page has its golden content and its bit in pagemap; after the release the write is in the page.

    Args:
        trial: counts the checks.
        region: the protected memory.
        uffd: its monitor.
        page: the page to write.
        write: called with an address to write at; by default a plain store of `LATE`.
        offset: offset in the page in bytes.
        changes: whether the write changes the page's content.

    Returns:
        What `write` returned.
    """
    address = region.at(page) + offset
    with CallThread(trial, write or _store_late, address) as thread:
        event = next_fault(trial, uffd, thread)
        trial.equal(event.flags & _WRITE_WP, _WRITE_WP, "The fault's flags")
        trial.equal(page_of(region, event), page, "The page of the fault")
        trial.check_content(region, [page])
        if pagemap_has_bit():
            marked = protected_pages(region.at(page), region.page_bytes)
            trial.check(marked, f"A writer waits on page {page}, but pagemap does not show it as protected.")
        trial.check(thread.waits(0), f"The writer of page {page} went on before its page was released.")
        release(uffd, region, page)
        result = thread.finish()
    if changes:
        trial.check(not trial.is_golden(region, page), f"The write to page {page} was lost.")
        if write is None:
            content = region.load(page * region.page_bytes + offset, len(LATE))
            trial.equal(content, LATE, f"The content of page {page}")
    return result


def _store_late(address: int) -> None:
    libc.store(address, LATE)


def write_passes(
    trial: Trial,
    region: Region,
    uffd: Userfaultfd | None,
    page: int,
    why: str = "is not protected",
    code: str = "",
) -> None:
    """Let a thread write to a page that is not protected; the write must not wait or cause an event.

    Args:
        trial: counts the checks.
        region: the memory.
        uffd: its monitor, None if it has none.
        page: the page to write.
        why: why the page is not protected, as the predicate of a sentence.
        code: code of the failure if the write waits or causes an event, see `trial.CheckFailed`.
    """
    with CallThread(trial, _store_late, region.at(page)) as thread:
        trial.check(not thread.waits(trial.patience), f"A write waits on page {page}, which {why}.", code)
    if uffd is not None:
        trial.equal(uffd.read_events(0), [], f"The events of page {page}, which {why}", code)
    trial.equal(region.load(page * region.page_bytes, len(LATE)), LATE, f"The content of page {page}")


def all_wait(trial: Trial, region: Region, uffd: Userfaultfd, pages: Any = None) -> None:
    """Check `write_waits` on these pages, by default all, and that there is no other event."""
    for page in range(region.pages) if pages is None else pages:
        write_waits(trial, region, uffd, page)
    trial.equal(uffd.read_events(0), [], "Further events")


def check_pagemap(trial: Trial, region: Region, expected: Any) -> None:
    """Assert which pages pagemap shows as protected, if the kernel has that bit (5.14)."""
    if not pagemap_has_bit():
        return
    numbers = protected_pages(region.address, region.length, page_bytes=region.page_bytes)
    what = f"The protected pages of {region.pages} by pagemap"
    trial.equal(numbers, list(expected), what, PAGEMAP_DIFFERS)


@functools.cache
def pagemap_has_bit() -> bool:
    """Return whether pagemap shows write protection (5.14), by trying it on a page."""
    with (
        Region.anonymous(PAGE_BYTES) as region,
        Userfaultfd(Feature.PAGEFAULT_FLAG_WP, user_mode_only=_user_mode_only()) as uffd,
    ):
        region.fill(1)
        uffd.register(region.address, region.length, Mode.WP)
        uffd.write_protect(region.address, region.length)
        return read_pagemap(region.address, region.length)[0].write_protected


def _user_mode_only() -> bool:
    from .needs import may_trap_kernel

    return not may_trap_kernel()
