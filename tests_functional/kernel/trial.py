"""The helper object of a feature test: makes its memory and userfaultfd, and counts its assertions."""

from __future__ import annotations

import contextlib
import errno
import struct
from typing import Any, NoReturn, TypeVar

from harness.userfaultfd import PAGE_BYTES, Mode, Region, Userfaultfd

from .content import Content
from .memory import MemoryType

_T = TypeVar("_T")
_PATTERN = struct.Struct("<QQ")
_MAGIC = 0x746C75616670616E
_PAGES = 8

ZERO_OFFSET, ZERO_BYTES = 64, 64
"""Offset and length of a part of every golden page that is zero, for tests that need zeros."""


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
        self._golden: dict[int, bytes] = {}

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
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
        self.check(found == expected, f"{what}: {_short(found)}, expected {_short(expected)}.", code)

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
        for page in range(region.pages):
            if self.memory.zero:
                region.load(page * region.page_bytes, 1)
            else:
                region.store(page * region.page_bytes, self.golden(region, page))

    def golden(self, region: Region, page: int) -> bytes:
        """Return the golden content of a page: what it holds before the test writes to it."""
        if self.content.blank(page) if self.content else self.memory.zero:
            return bytes(region.page_bytes)
        if page in self._golden:
            return self._golden[page]
        content = bytearray(_PATTERN.pack(_MAGIC, page) * (region.page_bytes // _PATTERN.size))
        content[ZERO_OFFSET : ZERO_OFFSET + ZERO_BYTES] = bytes(ZERO_BYTES)
        if region.page_bytes > PAGE_BYTES:
            # A huge page takes milliseconds to make.
            self._golden[page] = bytes(content)
        return bytes(content)

    def check_content(self, region: Region, pages: Any = None) -> None:
        """Assert that pages, by default all, have their golden content."""
        for page in range(region.pages) if pages is None else pages:
            self.check(
                region.load(page * region.page_bytes, region.page_bytes) == self.golden(region, page),
                f"Page {page} does not have the content that it had before it was protected.",
            )

    def _require_huge_pages(self, region: Region) -> None:
        # The huge zero page is not counted in any field of smaps.
        counted = self.content is None or self.content.counted
        if self.memory.verify and counted and not _mapped_kib(region, self.memory.verify):
            self.skip(
                f"The kernel mapped memory of type {self.memory.name} without a huge page "
                f"({self.memory.verify} is 0 in /proc/self/smaps)."
            )


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
