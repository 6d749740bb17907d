"""The protected memory of one cell, and the check of what a way has left of its protection."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable

from harness.userfaultfd import PAGE_BYTES, Feature, Region, Userfaultfd, libc, protected_pages, scan

from ..calls import CallThread
from ..memory import HUGE, HUGE_BYTES
from ..oracle import (
    LATE,
    PAGEMAP_DIFFERS,
    blocked,
    next_fault,
    pagemap_has_bit,
    release,
    write_passes,
    write_waits,
)
from ..trial import Trial

ONE = 2
"""The page that a way treats where it treats one page of a region; its neighbours must not notice."""

RELEASED = 5
"""A page that is released before the way, so that protection is mixed; not if one entry maps all pages."""

_SMALL_PAGES, _HUGE_PAGES = 16, 6
_THP_PAGES = HUGE_BYTES // PAGE_BYTES
_MOST_LISTED = 8


@dataclass(frozen=True)
class Subject:
    """The protected memory of one cell.

    Attributes:
        trial: makes the memory and counts the checks.
        region: the memory: every page of it is protected, but not those in `released`.
        uffd: its monitor.
        released: the pages that are not protected when the way begins.
    """

    trial: Trial
    region: Region
    uffd: Userfaultfd
    released: frozenset[int]

    @property
    def pages(self) -> frozenset[int]:
        """The numbers of all pages."""
        return _numbers(self.region.pages)

    @property
    def asynchronous(self) -> bool:
        """Whether writes are found by a scan, and neither wait nor cause events (6.7)."""
        return bool(self.uffd.features & Feature.WP_ASYNC)

    def advise(self, advice: int, name: str, page: int | None = None) -> None:
        """Give advice on one page, by default on all; skip the test if the kernel does not take it here."""
        region = self.region
        start, length = (
            (region.address, region.length) if page is None else (region.at(page), region.page_bytes)
        )
        try:
            libc.madvise(start, length, advice)
        except OSError as error:
            # Without the address, which is another one in each run.
            why = os.strerror(error.errno or 0)
            self.trial.skip(f"The kernel does not take {name} for memory of this type: {why}.")

    def expect(
        self,
        *,
        open_: Iterable[int] = (),
        either: Iterable[int] = (),
        away: Iterable[int] = (),
        empty: Iterable[int] = (),
    ) -> Expected:
        """Return an expectation in which all other pages are as before the way."""
        changed = frozenset(open_) | frozenset(either) | frozenset(away)
        return Expected(
            kept=self.pages - self.released - changed,
            # A way may have unmapped the last page.
            open_=(self.released & self.pages | frozenset(open_)) - frozenset(either) - frozenset(away),
            either=frozenset(either),
            empty=frozenset(empty),
        )


@dataclass(frozen=True)
class Expected:
    """What a way leaves of the protection; a page that is in none of these sets is not accessed any more.

    Attributes:
        kept: pages that are still protected, with their golden content.
        open_: pages that can be written without an event.
        either: pages that may be protected or not; a write to them completes, after an event or without.
        empty: pages that may have lost their content.
    """

    kept: frozenset[int]
    open_: frozenset[int]
    either: frozenset[int] = frozenset()
    empty: frozenset[int] = frozenset()


Act = Callable[[Subject], Expected]


def prepare(trial: Trial, before: Callable[[Trial, Region], object] | None = None) -> Subject:
    """Map memory with the trial's content, register and protect it, and release one page of it.

    Args:
        trial: says which memory and content.
        before: called with the memory before it is registered.
    """
    huge = trial.memory in HUGE
    region = trial.region(_HUGE_PAGES if huge else _SMALL_PAGES)
    if before is not None:
        before(trial, region)
    uffd = trial.uffd()
    uffd.register(region.address, region.length)
    uffd.write_protect(region.address, region.length)
    # A release would split the PMD entry, and so be another way than the one to test.
    released = frozenset() if trial.memory.step >= _THP_PAGES else frozenset({RELEASED})
    for page in released:
        release(uffd, region, page)
    subject = Subject(trial, region, uffd, released)
    _check_protection(subject, subject.expect(), "before")
    return subject


def verify(subject: Subject, expected: Expected) -> None:
    """Check protection and content of all pages, and that writes wait where they must and pass where not."""
    _check_protection(subject, expected, "after")
    whole = (expected.kept | expected.open_) - expected.empty
    subject.trial.check_content(subject.region, sorted(whole))
    if subject.asynchronous:
        _find_writes(subject, expected)
        return
    trial, region, uffd = subject.trial, subject.region, subject.uffd
    for page in samples(expected.kept):
        write_waits(trial, region, uffd, page)
    for page in samples(expected.open_):
        write_passes(trial, region, uffd, page)
    for page in samples(expected.either):
        _write_completes(subject, page)
    trial.equal(uffd.read_events(0), [], "Further events")


def samples(pages: frozenset[int]) -> list[int]:
    """Return pages to write to: the neighbours of ONE, both ends and the middle; more if pagemap is blind."""
    ordered = sorted(pages)
    if len(ordered) <= 6:
        return ordered
    chosen = {ordered[0], ordered[-1], ordered[len(ordered) // 2]} | (pages & {ONE, ONE - 1, ONE + 1})
    if not pagemap_has_bit():
        # Odd steps, so that the sample has pages of both kinds where every second page is of another kind.
        chosen.update(ordered[:: max(1, len(ordered) // 16) | 1])
    return sorted(chosen)


@functools.cache
def _numbers(pages: int) -> frozenset[int]:
    """Return the numbers from 0 to below `pages`; kept, since each test asks several times."""
    return frozenset(range(pages))


def written_pages(subject: Subject) -> frozenset[int]:
    """Return the pages that PAGEMAP_SCAN reports as written."""
    region = subject.region
    found = scan(region.address, region.length, most_regions=region.length // PAGE_BYTES + 1)
    per = region.page_bytes // PAGE_BYTES
    return frozenset(number // per for number in found.pages(region.address))


def _check_protection(subject: Subject, expected: Expected, when: str) -> None:
    """Check which pages are protected, by pagemap, or by a scan under asynchronous protection."""
    region = subject.region
    if subject.asynchronous:
        protected = subject.pages - written_pages(subject)
    elif pagemap_has_bit():
        numbers = protected_pages(region.address, region.length, page_bytes=region.page_bytes)
        protected = frozenset(numbers)
    else:
        return
    lost, gained = expected.kept - protected, expected.open_ & protected
    subject.trial.check(
        not lost,
        f"{len(lost)} of {len(expected.kept)} protected pages are not protected {when} it: {_listed(lost)}",
        PAGEMAP_DIFFERS,
    )
    subject.trial.check(
        not gained,
        f"{len(gained)} pages that were not protected are protected {when} it: {_listed(gained)}",
        PAGEMAP_DIFFERS,
    )


def _listed(pages: frozenset[int]) -> str:
    """Return the numbers of pages as the end of a sentence."""
    text = ", ".join(map(str, sorted(pages)[:_MOST_LISTED]))
    return f"{text}." if len(pages) <= _MOST_LISTED else f"{text}, ..."


def _find_writes(subject: Subject, expected: Expected) -> None:
    """Write to some protected pages and check that a scan finds them, and none of the others."""
    region = subject.region
    chosen = samples(expected.kept)
    for page in chosen:
        region.store(page * region.page_bytes, LATE)
    found = written_pages(subject) & expected.kept
    subject.trial.equal(sorted(found), chosen, "The pages that a scan finds after writes", PAGEMAP_DIFFERS)


def _write_completes(subject: Subject, page: int) -> None:
    trial, region, uffd = subject.trial, subject.region, subject.uffd
    with CallThread(trial, libc.store, region.at(page), LATE) as thread:
        if blocked(trial, uffd, thread):
            next_fault(trial, uffd, thread)
            release(uffd, region, page)
        thread.finish()
    trial.equal(region.load(page * region.page_bytes, len(LATE)), LATE, f"The content of page {page}")
