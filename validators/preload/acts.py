"""The page in which a preloaded library counts what it did: a file that its environment names."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "SNAPPROOF_PLANTED_FAULT"
"""Names the file in the environment of the process that the library is in (fault.h)."""

_PAGE_BYTES = 4096
_WORD = struct.Struct("<Q")


@dataclass(frozen=True)
class ActsPage:
    """The page, over all processes that count in it.

    Attributes:
        path: its file.
    """

    path: Path

    @classmethod
    def blank(cls, path: Path) -> ActsPage:
        """Make its file anew: nothing was done yet."""
        path.write_bytes(bytes(_PAGE_BYTES))
        return cls(path)

    @property
    def acts(self) -> int:
        """How often the library did what it is there for: the first word."""
        return self.words(1)[0]

    def words(self, count: int) -> tuple[int, ...]:
        """Its first so many words of 8 bytes; what those after the first count is the library's own."""
        data = self.path.read_bytes()[: count * _WORD.size]
        return tuple(word for (word,) in _WORD.iter_unpack(data))

    def environment(self, there: str = "") -> dict[str, str]:
        """What tells the library about it; `there` is its path where that is another for the library."""
        return {VARIABLE: there or str(self.path)}
