"""The matrix of contracts: for each way, content and memory type the name of a test, or why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

from harness.userfaultfd import Feature

from ..content import CONTENTS, FILE, HUGE_ZERO, OWN, SHARED, ZERO, Content
from ..memory import (
    ANON,
    ANON_MTHP,
    ANON_THP,
    EVERY,
    FILE_PRIVATE,
    HUGETLB_PRIVATE,
    MEMFD,
    MEMFD_PRIVATE,
    MemoryType,
)
from ..registry import FeatureTest
from ..trial import Trial
from . import mappings, migrate, split, swap, zap
from .subject import prepare, verify
from .way import Way

SUITE = "matrix"
"""The suite of the tests that are made from the matrix."""

WAYS = (*split.WAYS, *zap.WAYS, *swap.WAYS, *migrate.WAYS, *mappings.WAYS)
"""The first dimension."""

MEMORIES = tuple(kind for kind in EVERY if not kind.zero)
"""The third dimension; `anon-zero` is memory type `anon` with the content `zero`."""

_ASYNC = int(Feature.WP_ASYNC | Feature.PAGEFAULT_FLAG_WP)


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix.

    Attributes:
        way: how entries are made anew.
        content: what the pages are made of.
        memory: the type of memory.
        test: full name of the test, empty if there is none.
        reason: why there is no test, empty if there is one.
    """

    way: Way
    content: Content
    memory: MemoryType
    test: str
    reason: str

    @property
    def generated(self) -> bool:
        """Whether the test is made from the matrix, and not one of another suite."""
        return self.test.startswith(f"{SUITE}.")


def cells() -> Iterator[Cell]:
    """Yield all cells, ordered by way, then content, then memory type."""
    for way in WAYS:
        for content in CONTENTS:
            for memory in MEMORIES:
                named = way.named.get((content.name, memory.name), "")
                reason = "" if named else _impossible(content, memory) or way.reason(content, memory)
                name = named or f"{SUITE}.{memory.name}.{way.name}-{content.name}"
                yield Cell(way, content, memory, "" if reason else name, reason)


def _impossible(content: Content, memory: MemoryType) -> str:
    """Return why a memory type has no pages of a content, empty if it has."""
    if content is ZERO:
        return _no_zero_page(memory)
    if content is HUGE_ZERO:
        return "" if memory is ANON_THP else "only private memory for huge pages maps the huge zero page"
    if content is FILE:
        return _no_file(memory)
    if content is not OWN and memory is MEMFD:
        return "mm/shmem.c treats it as `shmem`, which stands for both"
    if content is SHARED and memory is HUGETLB_PRIVATE:
        return "a copy for each writer would need more reserved huge pages than tests may take"
    return ""


def _no_zero_page(memory: MemoryType) -> str:
    if memory is ANON:
        return ""
    if memory is ANON_THP:
        return "a read maps the huge zero page; its split maps the zero page"
    if memory is ANON_MTHP:
        return "a read maps one zero page, as in `anon`"
    return "a read maps a page of its own or of the file"


def _no_file(memory: MemoryType) -> str:
    if memory in (MEMFD_PRIVATE, FILE_PRIVATE):
        return ""
    if memory in (ANON, ANON_THP, ANON_MTHP, HUGETLB_PRIVATE):
        return "the memory has no file"
    return "the pages of a shared mapping are those of its file: see content `own`"


def tests() -> Iterator[FeatureTest]:
    """Yield the tests that are made from the matrix."""
    for cell in cells():
        if cell.generated:
            yield _test(cell)


def _test(cell: Cell) -> FeatureTest:
    way, memory = cell.way, cell.memory
    tracked = memory is FILE_PRIVATE
    return FeatureTest(
        suite=SUITE,
        name=f"{way.name}-{cell.content.name}",
        memory=memory,
        function=_function(way),
        variant="",
        features=way.features | (_ASYNC if tracked else memory.features),
        needs=(*way.needs, *(("scan",) if tracked else ()), *memory.needs),
        recipe="matrix",
        bugs=way.bugs,
        seconds=way.seconds,
        known_issues=way.known_issues,
        content=cell.content,
        alone=way.alone,
    )


def _function(way: Way) -> Callable[[Trial], None]:
    """Return the test of a way as a function whose docstring is its contract."""

    def run(trial: Trial) -> None:
        if way.recipe is not None:
            way.recipe(trial)
            return
        assert way.act is not None, "a way without action has named tests only"
        subject = prepare(trial, way.before)
        verify(subject, way.act(subject))

    run.__doc__ = way.contract
    run.__name__ = way.name.replace("-", "_")
    return run
