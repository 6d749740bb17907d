"""A way in which page table entries are made anew, as data, and why it does not apply to some memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable

from harness.userfaultfd import Region

from ..content import Content
from ..memory import FILE_PRIVATE, HUGE, MEMFD_PRIVATE, MemoryType
from ..registry import DEFAULT_SECONDS, KernelIssue
from ..trial import Trial
from .subject import Act

Reason = Callable[[Content, MemoryType], str]
"""Returns why a way does not apply to a content of a memory type, empty if it does."""


def everywhere(_content: Content, _memory: MemoryType) -> str:
    """Return that a way applies to all memory."""
    return ""


@dataclass(frozen=True)
class Way:
    """A way in which page table entries are made anew.

    Attributes:
        name: part of the names of tests; must never change.
        group: the first dimension as a reader knows it, e.g. ``split``.
        contract: what must hold, as a sentence.
        code: the function of Linux that makes the entries anew.
        act: does it to protected memory and returns what must be left; None for a way with `recipe`.
        recipe: a whole test instead of `act`, which takes memory and content from its trial.
        before: called with the memory before it is registered.
        reason: why the way does not apply to a content of a memory type.
        named: names of tests outside of the matrix that are cells, ``suite.*.test``, by content and memory.
        features: userfaultfd features that it needs.
        needs: names from `needs.NEEDS`.
        bugs: Linux commits that fixed bugs which it would detect.
        known_issues: kernel defects that it is known to detect.
        seconds: time limit.
        alone: see `FeatureTest.alone`.
    """

    name: str
    group: str
    contract: str
    code: str
    act: Act | None = None
    recipe: Callable[[Trial], None] | None = None
    before: Callable[[Trial, Region], object] | None = None
    reason: Reason = everywhere
    named: Mapping[tuple[str, str], str] = field(default_factory=dict)
    features: int = 0
    needs: tuple[str, ...] = ()
    bugs: tuple[str, ...] = ()
    known_issues: tuple[KernelIssue, ...] = ()
    seconds: float = DEFAULT_SECONDS
    alone: bool = False


ANONYMOUS = ("anon", "anon-thp", "anon-mthp")
LARGE = ("anon-thp", "anon-mthp", "shmem-thp")
SHARED_MEMORY = ("shmem", "memfd", "shmem-thp", "hugetlb")
NO_FRAME = ("zero", "huge-zero")


def first_of(*reasons: Reason) -> Reason:
    """Return a reason that is the first of several that applies."""

    def reason(content: Content, memory: MemoryType) -> str:
        return next((text for one in reasons if (text := one(content, memory))), "")

    return reason


def only_large(_content: Content, memory: MemoryType) -> str:
    """Return why memory has nothing to split."""
    if memory in HUGE:
        return "the kernel does not split reserved huge pages"
    return "" if memory.name in LARGE else "its pages are the smallest already, so there is nothing to split"


def only_anonymous(_content: Content, memory: MemoryType) -> str:
    """Return why memory is not private anonymous memory."""
    return "" if memory.name in ANONYMOUS else "the kernel offers it for private anonymous memory only"


def only_shared(_content: Content, memory: MemoryType) -> str:
    """Return why memory is not a shared mapping."""
    return "" if memory.name in SHARED_MEMORY else "the kernel offers it for shared mappings only"


def not_reserved(_content: Content, memory: MemoryType) -> str:
    """Return why reserved huge pages are left out."""
    return "the kernel does not offer it for reserved huge pages" if memory in HUGE else ""


def not_swapped(content: Content, memory: MemoryType) -> str:
    """Return why pages do not go to swap space."""
    if memory in HUGE:
        return "reserved huge pages are not swapped"
    if content.name in NO_FRAME:
        return "the zero page is not swapped"
    if memory is FILE_PRIVATE and content.name == "file":
        return "a clean page of a file on a disk is dropped, not swapped"
    if content.name == "shared":
        return "MADV_PAGEOUT leaves pages alone that another process maps"
    return ""


def no_frame(content: Content, _memory: MemoryType) -> str:
    """Return why pages have no frame of their own to treat."""
    return "the zero page belongs to all processes and is not treated so" if content.name in NO_FRAME else ""


def with_events(_content: Content, memory: MemoryType) -> str:
    """Return why a test that waits for events does not apply."""
    return "the test waits for events, and this memory is tracked without" if memory is FILE_PRIVATE else ""


def private_file(memory: MemoryType) -> bool:
    """Return whether memory is a private mapping of a file, whose written pages are copies."""
    return memory in (MEMFD_PRIVATE, FILE_PRIVATE)
