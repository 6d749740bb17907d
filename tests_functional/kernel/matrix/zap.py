"""Ways that take page table entries away, wholly or in part: release, zap, free, hole, guard, unmap."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from harness.userfaultfd import Feature, UserfaultfdError, libc

from ..calls import CallThread
from ..content import Content
from ..memory import FILE_PRIVATE, MemoryType
from ..oracle import release
from ..registry import KernelIssue
from .subject import ONE, Expected, Subject
from .way import (
    ANONYMOUS,
    Way,
    first_of,
    not_reserved,
    only_anonymous,
    only_shared,
    private_file,
    with_events,
)

GUARD_SPINS = "guard-install-spins"
"""Code of a MADV_GUARD_INSTALL that does not return and keeps a processor busy."""

# Processor time of a call for one page, which needs microseconds, and of how much of it one look may count.
_SPIN_SECONDS, _LOOK_SECONDS = 0.1, 0.01
_PUNCHED_MAPPINGS = "its mapping is private, and MADV_REMOVE is for shared ones"


def _release(subject: Subject) -> Expected:
    release(subject.uffd, subject.region, ONE)
    return subject.expect(open_={ONE})


def _zap(subject: Subject) -> Expected:
    subject.advise(libc.MADV_DONTNEED, "MADV_DONTNEED", ONE)
    return _without(subject, {ONE})


def _zap_all(subject: Subject) -> Expected:
    subject.advise(libc.MADV_DONTNEED, "MADV_DONTNEED")
    return _without(subject, set(subject.pages))


def _without(subject: Subject, pages: set[int]) -> Expected:
    """Return the expectation after the entries of some pages were removed.

    Anonymous memory loses content and protection, which the kernel documents. Other memory keeps its
    protection as a marker (5.19), and its content if that is not a private copy.
    """
    memory = subject.trial.memory
    if memory.name in ANONYMOUS:
        return subject.expect(open_=pages, empty=pages)
    if private_file(memory) or memory.name == "hugetlb-private":
        content = subject.trial.content
        kept_content = content is not None and content.name == "file"
        return subject.expect(either=pages, empty=() if kept_content else pages)
    return subject.expect()


def _free_half(subject: Subject) -> Expected:
    region, half = subject.region, subject.region.pages // 2
    libc.madvise(region.at(half), (region.pages - half) * region.page_bytes, libc.MADV_FREE)
    freed = frozenset(range(half, region.pages))
    return subject.expect(either=freed, empty=freed)


def _punch(subject: Subject) -> Expected:
    subject.advise(libc.MADV_REMOVE, "MADV_REMOVE", ONE)
    return subject.expect(either={ONE}, empty={ONE})


def _unmap(subject: Subject) -> Expected:
    region = subject.region
    last = region.pages - 1
    libc.munmap(region.at(last), region.page_bytes)
    region.length -= region.page_bytes
    return subject.expect()


def _guard(subject: Subject) -> Expected:
    trial, region = subject.trial, subject.region
    with (
        _one_processor(os.sched_getaffinity(0)) as processors,
        CallThread(trial, _install_guard, region.at(ONE), region.page_bytes, processors) as thread,
    ):
        trial.check(
            not _spins(thread),
            f"MADV_GUARD_INSTALL of one page has kept a processor busy for {_SPIN_SECONDS} s and goes on.",
            GUARD_SPINS,
        )
        error = thread.finish()
    if error is not None:
        trial.skip(
            f"The kernel does not take MADV_GUARD_INSTALL (6.13, files 6.15) for this memory: {error}."
        )
    subject.advise(libc.MADV_GUARD_REMOVE, "MADV_GUARD_REMOVE", ONE)
    if trial.memory.name in ANONYMOUS:
        return subject.expect(open_={ONE}, empty={ONE})
    return subject.expect(either={ONE}, empty={ONE})


def _spins(thread: CallThread) -> bool:
    """Return whether a call keeps its processor busy, False once it has returned.

    A host that does not run a virtual processor for a while lets the clock of the thread on it go on. This
    thread shares that processor with the call, so it cannot look meanwhile, and one look counts little.
    """
    busy = before = 0.0
    while thread.waits(_LOOK_SECONDS):
        now = thread.processor_seconds
        busy += min(now - before, _LOOK_SECONDS)
        before = now
        if busy >= _SPIN_SECONDS:
            return thread.waits(0)
    return False


@contextlib.contextmanager
def _one_processor(processors: set[int]) -> Iterator[set[int]]:
    """Keep this thread on the last of the processors, and let it use all of them afterwards; yield them."""
    os.sched_setaffinity(0, {max(processors)})
    try:
        yield processors
    finally:
        os.sched_setaffinity(0, processors)


def _install_guard(address: int, length: int, processors: set[int]) -> OSError | None:
    with _one_processor(processors):
        try:
            libc.madvise(address, length, libc.MADV_GUARD_INSTALL)
        except OSError as error:
            return error
    return None


def _poison_missing(subject: Subject) -> Expected:
    subject.advise(libc.MADV_DONTNEED, "MADV_DONTNEED", ONE)
    try:
        subject.uffd.poison(subject.region.at(ONE), subject.region.page_bytes)
        subject.trial.note("the page was poisoned")
    except UserfaultfdError as error:
        # EEXIST: the page has a marker of protection, or is in the page cache.
        subject.trial.note(f"the page was not poisoned: {error}")
    return subject.expect(away={ONE})


def _no_hole(content: Content, memory: MemoryType) -> str:
    return _PUNCHED_MAPPINGS if private_file(memory) else only_shared(content, memory)


def _not_in_place(_content: Content, memory: MemoryType) -> str:
    if memory is FILE_PRIVATE:
        return "asynchronous protection is not released by hand"
    return ""


def _each(test: str, content: str, *memories: str) -> dict[tuple[str, str], str]:
    return {(content, name): test.replace("*", name) for name in memories}


_ONCE = "coverage.*.each-page-waits-once-and-only-protected-ones"

WAYS = (
    Way(
        "release-one",
        "split",
        "A release of one page leaves all others protected, also those of the same huge page.",
        "change_pte_range(), __split_huge_pmd_locked(), __split_huge_zero_page_pmd()",
        _release,
        reason=_not_in_place,
        named={
            **_each(
                _ONCE,
                "own",
                *("anon", "anon-mthp", "shmem", "memfd", "memfd-private", "shmem-thp"),
                *("hugetlb", "hugetlb-private"),
            ),
            ("zero", "anon"): "coverage.anon-zero.each-page-waits-once-and-only-protected-ones",
            ("own", "anon-thp"): "coverage.anon-thp.a-huge-page-is-split-by-its-first-write",
        },
        bugs=("42b2af2c9b7e", "8f34f1eac382"),
    ),
    Way(
        "zap-one",
        "zap",
        "MADV_DONTNEED of one page leaves the others protected.",
        "zap_pte_range(), __split_huge_pmd_locked()",
        _zap,
        named={
            ("own", "anon"): "preserved.anon.emptied-pages-lose-protection",
            **_each("preserved.*.emptied-shared-pages-stay-protected", "own", "shmem", "memfd"),
        },
    ),
    Way(
        "zap-all",
        "zap",
        "MADV_DONTNEED of all pages leaves those of shared memory protected, and anonymous ones not.",
        "zap_pmd_range(), zap_pte_range(), pte_install_uffd_wp_if_needed()",
        _zap_all,
    ),
    Way(
        "free-half",
        "zap",
        "MADV_FREE of half of the pages leaves the other half protected, and writes to its pages complete.",
        "madvise_free_pte_range(), try_to_unmap_one()",
        _free_half,
        reason=only_anonymous,
        bugs=("29f40594a281",),
    ),
    Way(
        "punch-one",
        "zap",
        "A hole punched into shared memory (MADV_REMOVE) leaves the other pages protected.",
        "unmap_mapping_range(), hugetlb_unmap_file_folio()",
        _punch,
        reason=_no_hole,
        named=_each("preserved.*.a-punched-hole-is-empty-and-can-be-written", "own", "memfd", "hugetlb"),
    ),
    Way(
        "unmap-one",
        "zap",
        "munmap of the last page leaves the others protected.",
        "vma_adjust_trans_huge(), zap_pte_range()",
        _unmap,
    ),
    Way(
        "guard-one",
        "zap",
        "MADV_GUARD_INSTALL and MADV_GUARD_REMOVE of one page return and leave the other pages protected.",
        "madvise_guard_install(), guard_install_set_pte()",
        _guard,
        reason=not_reserved,
        known_issues=(
            KernelIssue(
                "MADV_GUARD_INSTALL of a protected page that has a marker never returns (F42)", GUARD_SPINS
            ),
        ),
    ),
    Way(
        "uffd-poison-one",
        "poison",
        "UFFDIO_POISON of one page that was emptied leaves the other pages protected.",
        "mfill_atomic_pte_poison()",
        _poison_missing,
        reason=first_of(with_events),
        features=int(Feature.POISON),
    ),
)
