"""The helper object of a feature test: makes its memory and userfaultfd, and counts its assertions."""

from __future__ import annotations

import contextlib
import errno
from typing import Any, NoReturn, TypeVar

from harness.userfaultfd import Mode, Region, Userfaultfd, libc

from .content import Content, always, never
from .golden import Blank, Image, image
from .memory import MemoryType

_T = TypeVar("_T")
_PAGES = 8


class CheckFailed(Exception):
    """An assertion of a test failed.

    Attributes:
        code: identifies the assertion for known issues, empty if no known issue is about it.
    """

    def __init__(self, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.code = code


class Skip(Exception):
    """The test does not apply to this host, for a reason that was probed."""


class LimitReached(Exception):
    """This machine did not get far enough in time, which says nothing about the kernel."""


class Trial:
    """One run of one test.

    Attributes:
        memory: the memory type that it runs on; anonymous memory for a test without one.
        content: what the pages are made of, None for pages of the memory type's own kind.
        features: features that its userfaultfd enables.
        user_mode_only: whether this user may trap only faults in user mode.
        helper: path of the library built from segv.c, empty where there is none.
        checks: number of assertions that held; a test without any has shown nothing.
        notes: lines for the reader of the result.
    """

    patience = 5.0
    """Seconds to wait for something that should happen at once."""

    def __init__(
        self,
        memory: MemoryType,
        features: int,
        *,
        content: Content | None = None,
        user_mode_only: bool = False,
        helper: str = "",
    ) -> None:
        self.memory = memory
        self.content = content
        self.features = features
        self.user_mode_only = user_mode_only
        self.helper = helper
        self.checks = 0
        self.notes: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release all that the test has made, the newest first."""
        self._stack.close()

    def enter(self, resource: contextlib.AbstractContextManager[_T]) -> _T:
        """Keep a resource until the test ends."""
        return self._stack.enter_context(resource)

    def check(self, holds: object, otherwise: str, code: str = "") -> None:
        """Assert that `holds` is true.

        Args:
            holds: what must be true.
            otherwise: a sentence that says what is wrong if it is not.
            code: see `CheckFailed`.
        """
        if not holds:
            raise CheckFailed(otherwise, code)
        self.checks += 1

    def equal(self, found: object, expected: object, what: str, code: str = "") -> None:
        """Assert that two values are equal; `what` names the first of them in the error."""
        if found == expected:
            self.checks += 1
        else:
            raise CheckFailed(f"{what}: {_short(found)}, expected {_short(expected)}.", code)

    def expect_errno(
        self, code: int | tuple[int, ...], what: str, call: Any, *arguments: Any, **named: Any
    ) -> OSError:
        """Assert that a call fails with this errno, or one of several, and return its error.

        Args:
            code: the errno, or several.
            what: names the call in the error.
            call: what to call with the remaining arguments.
            *arguments: of the call.
            **named: of the call.
        """
        codes = code if isinstance(code, tuple) else (code,)
        try:
            call(*arguments, **named)
        except OSError as error:
            self.check(error.errno in codes, f"{what} failed with {error}, expected {_errnos(codes)}.")
            return error
        raise CheckFailed(f"{what} succeeded, expected {_errnos(codes)}.")

    def note(self, text: str) -> None:
        """Add a line for the reader of the result."""
        self.notes.append(text)

    def skip(self, reason: str) -> NoReturn:
        """End the test as not applicable."""
        raise Skip(reason)

    def uffd(self, extra: int = 0) -> Userfaultfd:
        """Create a userfaultfd with the test's and `extra` features; it is closed before earlier regions."""
        return self.enter(Userfaultfd(self.features | extra, user_mode_only=self.user_mode_only))

    def region(self, pages: int = _PAGES, *, fill: bool = True) -> Region:
        """Map memory of the test's type, at least `pages` pages, filled with golden content."""
        step = self.memory.step
        try:
            region = self.enter(self.memory.make((pages + step - 1) // step * step))
        except OSError as error:
            self.skip(f"Memory of type {self.memory.name} cannot be mapped on this host: {error}.")
        if fill:
            self.fill(region)
            self._require_huge_pages(region)
        return region

    def protected(self, pages: int = _PAGES, extra: int = 0) -> tuple[Region, Userfaultfd]:
        """Map memory with golden content, register it and write-protect it."""
        region = self.region(pages)
        uffd = self.uffd(extra)
        self.check(
            "WRITEPROTECT" in uffd.register(region.address, region.length, Mode.WP),
            "UFFDIO_REGISTER accepted the memory for WP, but does not offer WRITEPROTECT on it.",
        )
        uffd.write_protect(region.address, region.length)
        return region, uffd

    def fill(self, region: Region) -> None:
        """Write golden content to a region, or only read it if its content is the zero page."""
        if self.content is not None:
            self.content.fill(self, region)
            return
        if self.memory.zero:
            self.read_all(region)
        else:
            self.store_all(region)

    def store_all(self, region: Region) -> None:
        """Store the golden content of all pages, by one call."""
        libc.copy(region.address, self._image(region).address, region.length)

    def read_all(self, region: Region) -> None:
        """Read all pages, which must have their golden content, by one call."""
        self.check_content(region)
        self.checks -= region.pages

    def golden(self, region: Region, page: int) -> bytes:
        """Return the golden content of a page: what it holds before the test writes to it."""
        return self._image(region, page + 1).load(page)

    def is_golden(self, region: Region, page: int, count: int = 1) -> bool:
        """Return whether pages that follow one another have their golden content."""
        expected = self._image(region, page + count).address + page * region.page_bytes
        return libc.same(region.at(page), expected, count * region.page_bytes)

    def check_content(self, region: Region, pages: Any = None) -> None:
        """Assert that pages, by default all, have their golden content."""
        for first, count in _runs(range(region.pages) if pages is None else sorted(pages)):
            if self.is_golden(region, first, count):
                self.checks += count
                continue
            wrong = [page for page in range(first, first + count) if not self.is_golden(region, page)]
            # Without a page it was another one while we compared: content that changes under protection.
            named = f"Page {wrong[0]} does" if wrong else f"Pages {first} to {first + count - 1} did"
            raise CheckFailed(f"{named} not have the content that it had before it was protected.")

    def _image(self, region: Region, pages: int = 0) -> Image:
        blank = blank_pages(self.memory, self.content)
        return image(max(pages, region.pages), region.page_bytes, blank)

    def _require_huge_pages(self, region: Region) -> None:
        # The huge zero page is not counted in any field of smaps.
        counted = self.content is None or self.content.counted
        if self.memory.verify and counted and not _mapped_kib(region, self.memory.verify):
            self.skip(
                f"The kernel mapped memory of type {self.memory.name} without a huge page "
                f"({self.memory.verify} is 0 in /proc/self/smaps)."
            )


def blank_pages(memory: MemoryType, content: Content | None) -> Blank:
    """Return which pages of a region have no pattern, by its memory type and content."""
    return content.blank if content else always if memory.zero else never


def _runs(pages: Any) -> list[tuple[int, int]]:
    """Return first number and count of each run of ascending numbers without a gap."""
    runs: list[tuple[int, int]] = []
    if isinstance(pages, range) and pages.step == 1:
        return [(pages.start, len(pages))] if pages else runs
    for page in pages:
        if runs and page == sum(runs[-1]):
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((page, 1))
    return runs


def _mapped_kib(region: Region, key: str) -> int:
    """Return a field of /proc/self/smaps, in KiB, for the mapping in which a region begins."""
    inside = False
    with open("/proc/self/smaps", encoding="ascii", errors="replace") as smaps:  # noqa: PTH123
        for line in smaps:
            first = line.split(None, 1)[0]
            if "-" in first and not first.endswith(":"):
                start, _, end = first.partition("-")
                inside = int(start, 16) <= region.address < int(end, 16)
            elif inside and first == f"{key}:":
                return int(line.split()[1])
    return 0


def _errnos(codes: tuple[int, ...]) -> str:
    return " or ".join(errno.errorcode.get(code, str(code)) for code in codes)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
