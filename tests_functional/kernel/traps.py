"""The oracle that the data tests share: a write to a protected page waits, is told, and leaks nothing."""

from __future__ import annotations

import functools
import threading
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

from .trial import CheckFailed, Trial

LATE = b"written after the snapshot began"
"""What tests write to protected pages."""


class Doer:
    """A thread that makes one call, which may wait in the kernel; leaving its ``with`` waits for its end.

    Attributes:
        result: of the call, once it has returned.
        error: that it raised, None if none.
    """

    def __init__(self, trial: Trial, call: Callable[..., Any], *arguments: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._trial = trial
        self._call = call
        self._arguments = arguments
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Doer:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.finish()

    @property
    def thread_id(self) -> int:
        """Its id in the kernel."""
        return self._thread.native_id or 0

    def waits(self, seconds: float = 0.1) -> bool:
        """Whether it is still held after so many seconds."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def finish(self) -> Any:
        """Wait for its end and return the result; CheckFailed if it does not come."""
        self._thread.join(self._trial.patience)
        self._trial.check(
            not self._thread.is_alive(),
            f"A thread still waits {self._trial.patience:.0f} s after it was released.",
        )
        if isinstance(self.error, OSError):
            raise CheckFailed(f"A write to a page that was protected failed: {self.error}.")
        if self.error is not None:
            raise self.error
        return self.result

    def _run(self) -> None:
        try:
            self.result = self._call(*self._arguments)
        except BaseException as error:  # handed to whoever waits for it
            self.error = error


def next_fault(trial: Trial, uffd: Userfaultfd, doer: Doer | None = None) -> PageFault:
    """The next event, which must be a page fault and come at once."""
    events = uffd.read_events(trial.patience, most=1)
    if not events and doer and not doer.waits(0):
        if doer.error:
            raise CheckFailed(f"A write to a protected page failed: {doer.error}.")
        raise CheckFailed("A write to a protected page went through and was told to nobody.")
    trial.check(events, "No fault was told although a thread waits.")
    event = events[0]
    if not isinstance(event, PageFault):
        raise CheckFailed(f"The kernel told {event}, expected a page fault.")
    return event


def held(trial: Trial, uffd: Userfaultfd, doer: Doer) -> bool:
    """Whether a thread is held up by a page, rather than having come to its end, whichever comes first."""
    end = time.monotonic() + trial.patience
    while doer.waits(0) and time.monotonic() < end:
        if uffd.readable(0.02):
            return True
    # One that does neither is held up, and nobody was told.
    return uffd.readable(0) or doer.waits(0)


def page_of(region: Region, event: PageFault) -> int:
    """Number of the page of a fault; kernels before 5.18 may leave low bits in the address."""
    return (event.address - region.address) // region.page_bytes


def release(uffd: Userfaultfd, region: Region, page: int) -> None:
    """Lift one page's protection, which wakes its writer."""
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
    """Let a thread write to a protected page and check all that must hold.

    The write is told with the flags WRITE and WP and the page's address. While it waits the page has its
    golden content and its bit in pagemap; after the release the write is there.

    Args:
        trial: counts the checks.
        region: where.
        uffd: its monitor.
        page: which page.
        write: writes at an address; by default a plain store of `LATE`.
        offset: bytes into the page.
        changes: whether the write is one that can be seen afterwards.

    Returns:
        What `write` returned.
    """
    address = region.at(page) + offset
    with Doer(trial, write or _store_late, address) as doer:
        event = next_fault(trial, uffd, doer)
        trial.equal(
            event.flags & (FaultFlag.WRITE | FaultFlag.WP),
            FaultFlag.WRITE | FaultFlag.WP,
            "The fault's flags",
        )
        trial.equal(page_of(region, event), page, "The page of the fault")
        trial.intact(region, [page])
        if pagemap_has_bit():
            marked = protected_pages(region.at(page), region.page_bytes)
            trial.check(marked, f"Page {page} holds a writer, and pagemap does not show it as protected.")
        trial.check(doer.waits(0), "The writer went on before its page was released.")
        release(uffd, region, page)
        result = doer.finish()
    if changes:
        content = region.load(page * region.page_bytes, region.page_bytes)
        trial.check(content != trial.golden(region, page), "The write is lost: the page is as it was before.")
        if write is None:
            trial.equal(content[offset : offset + len(LATE)], LATE, "What was written")
    return result


def _store_late(address: int) -> None:
    libc.store(address, LATE)


def write_passes(
    trial: Trial, region: Region, uffd: Userfaultfd | None, page: int, why: str = "is not protected"
) -> None:
    """Let a thread write to a page that nothing protects: it must not wait and not be told."""
    with Doer(trial, _store_late, region.at(page)) as doer:
        trial.check(not doer.waits(trial.patience), f"A write waits on page {page}, which {why}.")
    if uffd is not None:
        trial.equal(uffd.read_events(0), [], f"What was told of page {page}, which {why},")
    trial.equal(region.load(page * region.page_bytes, len(LATE)), LATE, "What was written")


def all_wait(trial: Trial, region: Region, uffd: Userfaultfd, pages: Any = None) -> None:
    """`write_waits` on these pages, or all; and nothing else is told."""
    for page in range(region.pages) if pages is None else pages:
        write_waits(trial, region, uffd, page)
    trial.equal(uffd.read_events(0), [], "What was told besides")


def marked(trial: Trial, region: Region, expected: Any) -> None:
    """Assert which pages pagemap shows as protected, where the kernel has that bit."""
    if not pagemap_has_bit():
        return
    per = region.page_bytes // PAGE_BYTES
    numbers = sorted({number // per for number in protected_pages(region.address, region.length)})
    trial.equal(numbers, list(expected), f"The pages of {region.pages} that pagemap shows as protected")


@functools.cache
def pagemap_has_bit() -> bool:
    """Whether pagemap shows protection (5.14), tried on a page."""
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
