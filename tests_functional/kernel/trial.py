"""What a feature test is given: memory, a userfaultfd, and assertions that are counted."""

from __future__ import annotations

import contextlib
import struct
from typing import Any, NoReturn, TypeVar

from harness.userfaultfd import Mode, Region, Userfaultfd

from .memory import MemoryType

_T = TypeVar("_T")
_PATTERN = struct.Struct("<QQ")
_MAGIC = 0x746C75616670616E
_PAGES = 8

ZERO_OFFSET, ZERO_BYTES = 64, 64
"""Every golden page has so many zeros here, for tests that need some."""


class CheckFailed(Exception):
    """The kernel did not do what the test says it does."""


class Skip(Exception):
    """The test does not apply to this host, for a reason that was probed."""


class Trial:
    """One run of one test.

    Attributes:
        memory: the type of memory that it runs on; those without one take anonymous memory.
        features: that its userfaultfd gets.
        user_mode_only: this user may not trap faults of the kernel.
        helper: path of the library of segv.c, empty where there is none.
        checks: how many assertions held; a test without any has shown nothing.
        notes: what a reader of the result may want to know.
    """

    patience = 5.0
    """Seconds to wait for what must happen at once."""

    def __init__(
        self, memory: MemoryType, features: int, *, user_mode_only: bool = False, helper: str = ""
    ) -> None:
        self.memory = memory
        self.features = features
        self.user_mode_only = user_mode_only
        self.helper = helper
        self.checks = 0
        self.notes: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def enter(self, resource: contextlib.AbstractContextManager[_T]) -> _T:
        """Keep a resource until the test ends."""
        return self._stack.enter_context(resource)

    def check(self, holds: object, otherwise: str) -> None:
        """Assert; `otherwise` is the sentence that says what is wrong."""
        if not holds:
            raise CheckFailed(otherwise)
        self.checks += 1

    def equal(self, found: object, expected: object, what: str) -> None:
        """Assert that two values are the same; `what` names the first of them."""
        self.check(found == expected, f"{what} is {_short(found)}, expected {_short(expected)}.")

    def refuses(
        self, code: int | tuple[int, ...], what: str, call: Any, *arguments: Any, **named: Any
    ) -> OSError:
        """Assert that a call fails with this errno, or one of several, and return its error."""
        codes = code if isinstance(code, tuple) else (code,)
        try:
            call(*arguments, **named)
        except OSError as error:
            self.check(error.errno in codes, f"{what} failed with {error}, expected errno {codes}.")
            return error
        raise CheckFailed(f"{what} was accepted, expected errno {codes}.")

    def note(self, text: str) -> None:
        """Tell something with the result."""
        self.notes.append(text)

    def skip(self, reason: str) -> NoReturn:
        """End the test as not applicable."""
        raise Skip(reason)

    def uffd(self, extra: int = 0) -> Userfaultfd:
        """A userfaultfd with the test's features and more; it is closed before regions made earlier."""
        return self.enter(Userfaultfd(self.features | extra, user_mode_only=self.user_mode_only))

    def region(self, pages: int = _PAGES, *, fill: bool = True) -> Region:
        """Memory of the test's type, of at least so many pages, with golden content."""
        step = self.memory.step
        try:
            region = self.enter(self.memory.make((pages + step - 1) // step * step))
        except OSError as error:
            self.skip(f"This host gives no memory of type {self.memory.name}: {error}.")
        if fill:
            self.fill(region)
            self._verify(region)
        return region

    def protected(self, pages: int = _PAGES, extra: int = 0) -> tuple[Region, Userfaultfd]:
        """Memory with golden content, registered and protected."""
        region = self.region(pages)
        uffd = self.uffd(extra)
        self.check(
            "WRITEPROTECT" in uffd.register(region.address, region.length, Mode.WP),
            "Memory was registered for write protection, and the kernel does not offer WRITEPROTECT on it.",
        )
        uffd.write_protect(region.address, region.length)
        return region, uffd

    def fill(self, region: Region) -> None:
        """Write golden content, or read zeros where the memory's type says so."""
        for page in range(region.pages):
            if self.memory.zero:
                region.load(page * region.page_bytes, 1)
            else:
                region.store(page * region.page_bytes, self.golden(region, page))

    def golden(self, region: Region, page: int) -> bytes:
        """What a page holds before anything is written to it."""
        if self.memory.zero:
            return bytes(region.page_bytes)
        content = bytearray(_PATTERN.pack(_MAGIC, page) * (region.page_bytes // _PATTERN.size))
        content[ZERO_OFFSET : ZERO_OFFSET + ZERO_BYTES] = bytes(ZERO_BYTES)
        return bytes(content)

    def intact(self, region: Region, pages: Any = None) -> None:
        """Assert that pages, all by default, have their golden content."""
        for page in range(region.pages) if pages is None else pages:
            self.check(
                region.load(page * region.page_bytes, region.page_bytes) == self.golden(region, page),
                f"Page {page} does not have the content it had before it was protected.",
            )

    def _verify(self, region: Region) -> None:
        if self.memory.verify and not _mapped_kib(region, self.memory.verify):
            self.skip(f"The kernel gave {self.memory.name} no huge page ({self.memory.verify} 0).")


def _mapped_kib(region: Region, key: str) -> int:
    """What /proc/self/smaps says of the mapping that a region begins in."""
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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
