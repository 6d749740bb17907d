"""Maps the kinds of memory that lists use, and keeps the pages with what the model knows about each."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from harness.userfaultfd import PAGE_BYTES, Region, libc

from ..memory import HUGE_BYTES
from .model import Rules, State, States
from .steps import Monitor

SMALL_PAGES, HUGE_PAGES = 16, HUGE_BYTES // PAGE_BYTES
"""Pages of the kinds of memory: of a small one, and of one for a huge page."""

BASE = 6
"""Number of the pattern in files."""

RW = libc.PROT_READ | libc.PROT_WRITE


@dataclass(frozen=True)
class Kind:
    """A kind of memory.

    Attributes:
        name: as steps name it.
        pages: how many.
        make: maps it.
        anonymous, private, base, huge: see `Rules`.
        asynchronous: whether it can be protected with WP_ASYNC only.
    """

    name: str
    pages: int
    make: Callable[[], Region]
    anonymous: bool
    private: bool
    base: int = 0
    huge: bool = False
    asynchronous: bool = False


def keep_small(address: int, length: int) -> None:
    """Forbid huge pages, which a host's settings may give to all memory, shared memory too."""
    # EINVAL: the kernel has no transparent huge pages.
    libc.LIBC.madvise(address, length, libc.MADV_NOHUGEPAGE)


def _small(shared: bool) -> Region:
    region = Region.anonymous(SMALL_PAGES * PAGE_BYTES, shared=shared)
    keep_small(region.address, region.length)
    return region


def _huge() -> Region:
    region = Region.anonymous(HUGE_BYTES, align=HUGE_BYTES)
    libc.LIBC.madvise(region.address, region.length, libc.MADV_HUGEPAGE)
    return region


def _written(descriptor: int) -> Region:
    os.write(descriptor, pattern(BASE) * SMALL_PAGES)
    return Region.file(descriptor, SMALL_PAGES * PAGE_BYTES)


def _memfd() -> Region:
    return _written(os.memfd_create("explored"))


def _file() -> Region:
    with tempfile.NamedTemporaryFile(dir=os.environ.get("TMPDIR", "/var/tmp")) as file:
        return _written(os.dup(file.fileno()))


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("anon", SMALL_PAGES, lambda: _small(shared=False), anonymous=True, private=True),
        Kind("thp", HUGE_PAGES, _huge, anonymous=True, private=True, huge=True),
        Kind("shmem", SMALL_PAGES, lambda: _small(shared=True), anonymous=False, private=False),
        Kind("memfd-private", SMALL_PAGES, _memfd, anonymous=False, private=True, base=BASE),
        Kind("file-private", SMALL_PAGES, _file, anonymous=False, private=True, base=BASE, asynchronous=True),
    )
}
"""The kinds of memory by name."""

_PATTERNS = 10


def pattern(value: int) -> bytes:
    """Return the content of a page: its number in each word; 0 gives zeros."""
    return value.to_bytes(8, "little") * (PAGE_BYTES // 8)


_BYTES = tuple(pattern(value) for value in range(_PATTERNS))
_BUFFERS = tuple(ctypes.create_string_buffer(content, PAGE_BYTES) for content in _BYTES)
ADDRESS_OF = tuple(ctypes.addressof(buffer) for buffer in _BUFFERS)
"""Address of a copy of each pattern."""


def value_of(content: bytes) -> int:
    """Return the number of the pattern that a page holds, -1 if it holds none of them as a whole."""
    value = int.from_bytes(content[:8], "little")
    return value if value < _PATTERNS and content == _BYTES[value] else -1


class Page:
    """One page, and what the model knows about it.

    Attributes:
        number: in its memory.
        address: where it is mapped.
        mapping: differs between mappings that were made one by one.
        mode: for which accesses it is registered, bits of `Mode`.
        access: PROT_READ, PROT_WRITE.
        locked, mergeable: by mlock(2), by MADV_MERGEABLE.
        states: those that it may be in.
    """

    __slots__ = ("access", "address", "kind", "locked", "mapping", "mergeable", "mode", "number", "states")

    def __init__(self, kind: Kind, number: int, address: int) -> None:
        self.kind, self.number = kind, number
        self.fresh(address, 0)

    def fresh(self, address: int, mapping: int) -> None:
        """Make it a page of a new mapping."""
        self.address, self.mapping = address, mapping
        self.mode, self.access = 0, RW
        self.locked = self.mergeable = False
        self.states: States = frozenset({State(self.kind.base, False, False)})

    @property
    def area(self) -> tuple[Any, ...]:
        """What all pages of one mapping (VMA) have in common."""
        return self.mapping, self.mode, self.access, self.locked, self.mergeable

    @property
    def words(self) -> str:
        """It, for people."""
        return f"page {self.number} of {self.kind.name}"

    @property
    def readable(self) -> bool:
        """Whether it may be read."""
        return bool(self.access & libc.PROT_READ)

    @property
    def writable(self) -> bool:
        """Whether it may be written."""
        return self.access == RW


class Memory:
    """The memory of a list: each kind that was used so far; `close` unmaps it."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._places: list[tuple[int, int]] = []
        self._descriptors: list[int] = []
        self._mappings = 0
        self._rules: dict[tuple[str, int], Rules] = {}
        self.kinds: dict[str, list[Page]] = {}

    def pages(self, name: str) -> list[Page]:
        """Return the pages of a kind that are mapped, which it maps at first."""
        if name not in self.kinds:
            kind = KINDS[name]
            region = kind.make()
            self._places.append((region.address, region.length))
            if region.descriptor >= 0:
                self._descriptors.append(region.descriptor)
            self.kinds[name] = [Page(kind, number, region.at(number)) for number in range(region.pages)]
        return self.kinds[name]

    def all_pages(self) -> Iterator[Page]:
        """Yield all pages that are mapped."""
        for pages in self.kinds.values():
            yield from pages

    def rules(self, page: Page) -> Rules:
        """Return what decides about a page beside its state."""
        found = self._rules.get((page.kind.name, page.mode))
        if found is None:
            found = self._rules[page.kind.name, page.mode] = self._made_rules(page.kind, page.mode)
        return found

    def _made_rules(self, kind: Kind, mode: int) -> Rules:
        monitor = self._monitor
        return Rules(
            kind.anonymous,
            kind.private,
            kind.base,
            kind.huge,
            mode,
            monitor.unpopulated or monitor.asynchronous,
            monitor.asynchronous,
            monitor.protect,
        )

    def reserve(self, length: int, align: int) -> int:
        """Return the address of memory to map over, so that nothing else is there."""
        place = Region.anonymous(length, align=align)
        self._places.append((place.address, length))
        return place.address

    def new_mapping(self) -> int:
        """Return a number for a mapping that is made now."""
        self._mappings += 1
        return self._mappings

    def unmap(self, pages: Iterable[Page]) -> None:
        """Unmap pages, which no step can name afterwards."""
        gone = list(pages)
        for run in runs(gone):
            libc.munmap(run[0].address, len(run) * PAGE_BYTES)
            self._forget(run[0].address, len(run) * PAGE_BYTES)
        for name, left in self.kinds.items():
            self.kinds[name] = [page for page in left if page not in gone]

    def _forget(self, address: int, length: int) -> None:
        """Leave out what is not ours any more: others may map their memory there."""
        end = address + length
        self._places = [
            (low, high - low)
            for start, size in self._places
            for low, high in ((start, min(start + size, address)), (max(start, end), start + size))
            if low < high
        ]

    def close(self) -> None:
        """Unmap all."""
        for address, length in self._places:
            libc.LIBC.munmap(address, length)
        for descriptor in self._descriptors:
            os.close(descriptor)


def runs(pages: Sequence[Page], of: Callable[[Page], Any] = lambda _: None) -> list[list[Page]]:
    """Return the pages in pieces of neighbouring addresses that have the same property."""
    found: list[list[Page]] = []
    for page in pages:
        last = found[-1][-1] if found else None
        if last is not None and page.address == last.address + PAGE_BYTES and of(page) == of(last):
            found[-1].append(page)
        else:
            found.append([page])
    return found
