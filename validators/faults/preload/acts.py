"""The page in which a preloaded library counts how often it acted: a file that its environment names."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "SNAPPROOF_PLANTED_FAULT"
"""Environment variable that names the file to the library (fault.h)."""

SHARED_PAGE_BYTES = 4096
"""Size of the page, whatever the pages of host and guest are (shared_page.h)."""

_WORD = struct.Struct("<Q")


@dataclass(frozen=True)
class ActsPage:
    """The page of a library; all processes that have the library count in it.

    Attributes:
        path: its file.
    """

    path: Path

    @classmethod
    def blank(cls, path: Path) -> ActsPage:
        """Write its file anew, with all counters 0."""
        path.write_bytes(bytes(SHARED_PAGE_BYTES))
        return cls(path)

    @property
    def acts(self) -> int:
        """Return how often the library acted: the first word."""
        return self.words(1)[0]

    def words(self, count: int) -> tuple[int, ...]:
        """Return its first `count` words of 8 bytes; each library defines those after the first."""
        data = self.path.read_bytes()[: count * _WORD.size]
        return tuple(word for (word,) in _WORD.iter_unpack(data))

    def environment(self, there: str = "") -> dict[str, str]:
        """Return the environment that names the page; `there` is its path if that differs for the library."""
        return {VARIABLE: there or str(self.path)}
