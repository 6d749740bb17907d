"""Ways that copy, move or change whole mappings: fork, mremap, UFFDIO_MOVE, mprotect, mlock, MADV_COLD."""

from __future__ import annotations

import ctypes
import errno

from harness.userfaultfd import Feature, Mode, Region, UserfaultfdError, libc, protected_pages

from ..calls import CallThread
from ..checks import preserved
from ..content import Content
from ..memory import HUGE_BYTES, MemoryType
from ..oracle import blocked, next_fault, page_of, pagemap_has_bit, release
from ..registry import KernelIssue
from ..trial import Trial
from .subject import ONE, Expected, Subject
from .swap import page_out
from .way import Way, first_of, not_reserved, not_swapped, only_anonymous, with_events

MOVED_PROTECTION = "moved-protection"
"""Code of a page that UFFDIO_MOVE leaves protected in memory that is not registered for protection."""

_RW = libc.PROT_READ | libc.PROT_WRITE
_SMALL = ("anon", "shmem", "memfd", "memfd-private")
_MAPPED = (*_SMALL, "anon-thp", "anon-mthp", "shmem-thp", "hugetlb", "hugetlb-private")


def _permissions(subject: Subject, taken: int) -> Expected:
    region = subject.region
    for start, length in ((region.address, region.length), (region.at(ONE), region.page_bytes)):
        libc.mprotect(start, length, taken)
        libc.mprotect(start, length, _RW)
    return subject.expect()


def _read_only(subject: Subject) -> Expected:
    return _permissions(subject, libc.PROT_READ)


def _no_access(subject: Subject) -> Expected:
    return _permissions(subject, libc.PROT_NONE)


def _lock(subject: Subject) -> Expected:
    """Lock and unlock one page.

    In private memory mlock(2) writes to it first (populate_vma_page_range() in mm/gup.c).
    """
    trial, region, uffd = subject.trial, subject.region, subject.uffd
    start, length = ctypes.c_void_p(region.at(ONE)), ctypes.c_size_t(region.page_bytes)
    with CallThread(trial, libc.LIBC.mlock, start, length) as thread:
        written = blocked(trial, uffd, thread)
        if written:
            trial.equal(page_of(region, next_fault(trial, uffd, thread)), ONE, "The page of the fault")
            release(uffd, region, ONE)
        if thread.finish() != 0:
            trial.skip("This user may not lock a page.")
    libc.LIBC.munlock(start, length)
    trial.note("mlock waited, as a write" if written else "mlock did not wait")
    if subject.asynchronous:
        return subject.expect(either={ONE})
    return subject.expect(open_={ONE} if written else ())


def _cold_all(subject: Subject) -> Expected:
    subject.advise(libc.MADV_COLD, "MADV_COLD (5.4)")
    return subject.expect()


def _move_page_away(subject: Subject) -> Expected:
    region = subject.region
    place = subject.trial.enter(
        Region.anonymous(2 * region.page_bytes, align=max(HUGE_BYTES, region.page_bytes))
    )
    flags = libc.MREMAP_MAYMOVE | libc.MREMAP_FIXED
    libc.mremap(region.at(region.pages - 1), region.page_bytes, region.page_bytes, flags, place.address)
    region.length -= region.page_bytes
    if pagemap_has_bit():
        subject.trial.equal(
            protected_pages(place.address, region.page_bytes), [], "The protected pages at the new place"
        )
    return subject.expect()


def _uffd_move(subject: Subject) -> Expected:
    """Move one page by UFFDIO_MOVE to memory that is registered for missing pages only."""
    trial, region = subject.trial, subject.region
    place = trial.enter(Region.anonymous(HUGE_BYTES, align=HUGE_BYTES))
    subject.uffd.register(place.address, place.length, Mode.MISSING)
    try:
        subject.uffd.move(place.address, region.at(ONE), region.page_bytes)
    except UserfaultfdError as error:
        # The kernel documents it for pages that are not exclusive to the process.
        trial.check(
            error.errno == errno.EBUSY and trial.content is not None and trial.content.name == "shared",
            f"UFFDIO_MOVE of a protected page failed: {error}.",
        )
        return subject.expect()
    moved = place.load(0, region.page_bytes)
    trial.equal(moved, trial.golden(region, ONE), "The content of the moved page")
    place.store(0, b"later")
    trial.equal(place.load(0, 5), b"later", "The content of the moved page after a write")
    trial.equal(
        protected_pages(place.address, region.page_bytes),
        [],
        "The protected pages where the page was moved, which is not registered for protection",
        MOVED_PROTECTION,
    )
    return subject.expect(open_={ONE}, empty={ONE})


def _uffd_move_swapped(subject: Subject) -> Expected:
    page_out(subject.trial, subject.region)
    return _uffd_move(subject)


def _recipe_fork(trial: Trial) -> None:
    preserved.a_child_is_not_protected(trial)


def _recipe_fork_agreed(trial: Trial) -> None:
    preserved.a_child_inherits_protection_if_agreed(trial)


def _recipe_mremap(trial: Trial) -> None:
    preserved.moved_memory_is_not_protected(trial)


def _recipe_mremap_agreed(trial: Trial) -> None:
    preserved.moved_memory_stays_protected_if_agreed(trial)


def _not_shared_fork(content: Content, memory: MemoryType) -> str:
    if content.name == "shared" and memory.name == "hugetlb-private":
        return "a third process would need more reserved huge pages than tests may take"
    return ""


def _named(test: str, *memories: str) -> dict[tuple[str, str], str]:
    return {("own", name): f"preserved.{name}.{test}" for name in memories}


_FORK_ISSUE = KernelIssue(
    "fork copies the protection bit of private huge pages (5a2f8d22ace4)",
    "child-hangs",
    (6, 4),
    ("hugetlb-private",),
)

# copy_page_range() of Linux 5.10 returns at once for private memory without an anon_vma, which only a write
# makes. The vma_needs_copy() of the fix copies all memory that is registered for protection.
_FORK_ZERO_ISSUE = KernelIssue(
    "fork does not copy page tables that map nothing but the zero page (c56d1b62cce8)",
    preserved.CHILD_UNREPORTED,
    (5, 19),
    ("anon",),
    ("zero",),
)

WAYS = (
    Way(
        "fork",
        "fork",
        "Without EVENT_FORK a child's memory is not protected, and the parent's stays protected.",
        "copy_present_pte(), copy_huge_pmd(), copy_hugetlb_page_range()",
        recipe=_recipe_fork,
        reason=first_of(with_events, _not_shared_fork),
        named=_named("a-child-is-not-protected", *_MAPPED),
        bugs=("8f34f1eac382", "5a2f8d22ace4", "49d6d7fb6313"),
        known_issues=(_FORK_ISSUE,),
    ),
    Way(
        "fork-agreed",
        "fork",
        "With EVENT_FORK a child's write waits for the userfaultfd that the fork event delivers.",
        "copy_present_pte(), copy_huge_pmd(), copy_hugetlb_page_range()",
        recipe=_recipe_fork_agreed,
        reason=first_of(with_events, _not_shared_fork),
        named=_named("a-child-inherits-protection-if-agreed", "anon", "shmem"),
        features=int(Feature.EVENT_FORK),
        bugs=("8f34f1eac382", "c56d1b62cce8"),
        known_issues=(_FORK_ZERO_ISSUE,),
    ),
    Way(
        "mremap",
        "remap",
        "Without EVENT_REMAP memory that mremap moves is no longer registered or protected.",
        "move_ptes(), move_huge_pmd(), move_hugetlb_page_tables()",
        recipe=_recipe_mremap,
        reason=with_events,
        named=_named("moved-memory-is-not-protected", *_SMALL, "anon-thp"),
        bugs=("0cef0bb836e3",),
    ),
    Way(
        "mremap-agreed",
        "remap",
        "With EVENT_REMAP memory that mremap moves stays protected.",
        "move_ptes(), move_huge_pmd(), move_hugetlb_page_tables()",
        recipe=_recipe_mremap_agreed,
        reason=with_events,
        named=_named("moved-memory-stays-protected-if-agreed", *_SMALL, "anon-thp"),
        features=int(Feature.EVENT_REMAP),
    ),
    Way(
        "mremap-one",
        "remap",
        "mremap of the last page leaves the others protected, and the moved one is not protected.",
        "move_ptes(), __split_huge_pmd_locked()",
        _move_page_away,
        bugs=("0cef0bb836e3",),
    ),
    Way(
        "uffd-move-one",
        "move",
        "UFFDIO_MOVE takes one protected page away with its content and leaves the others protected.",
        "move_present_ptes(), move_zeropage_pte(), move_pages_huge_pmd()",
        _uffd_move,
        reason=only_anonymous,
        features=int(Feature.MOVE),
    ),
    Way(
        "uffd-move-swapped-one",
        "move",
        "UFFDIO_MOVE takes one protected page in swap space away and leaves the others protected.",
        "move_swap_pte()",
        _uffd_move_swapped,
        reason=first_of(only_anonymous, not_swapped),
        features=int(Feature.MOVE),
        needs=("swap", "pageout"),
        known_issues=(
            KernelIssue(
                "UFFDIO_MOVE takes the protection of a page in swap space along (F43)", MOVED_PROTECTION
            ),
        ),
    ),
    Way(
        "mprotect-read",
        "permissions",
        "Pages stay protected when mprotect makes them read-only and writable again.",
        "change_pte_range(), change_huge_pmd(), hugetlb_change_protection()",
        _read_only,
        named=_named("changed-permissions-keep-protection-read", *_MAPPED),
        bugs=("51d3d5eb74ff", "f1eb1bacfba9", "fed15f1345dc"),
    ),
    Way(
        "mprotect-none",
        "permissions",
        "Pages stay protected when mprotect takes all permissions away and gives them back.",
        "change_pte_range(), change_huge_pmd(), hugetlb_change_protection()",
        _no_access,
        named=_named("changed-permissions-keep-protection-none", *_MAPPED),
        bugs=("51d3d5eb74ff", "f1eb1bacfba9", "fed15f1345dc"),
    ),
    Way(
        "mlock-one",
        "permissions",
        "mlock of one page waits as a write does, or leaves it protected; the others stay protected.",
        "vma_adjust_trans_huge(), mlock_pte_range()",
        _lock,
        named=_named("locked-memory-is-protected", "anon", "shmem"),
    ),
    Way(
        "cold-all",
        "age",
        "Pages stay protected after MADV_COLD of all of them.",
        "madvise_cold_or_pageout_pte_range()",
        _cold_all,
        reason=not_reserved,
        named={("own", name): f"movement.{name}.cold-pages-stay-protected" for name in ("anon", "shmem")},
    ),
)
