"""Says how far the reading of a file has come, without a word from the loops that read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from validators.stream.source import FileSource

# Called with the name of a stage, bytes done and bytes in all. Done never goes back within a stage, and
# reaches all at its end.
Progress = Callable[[str, int, int], None]

_STEP = 16 << 20


class WatchedSource(FileSource):
    """A file that reports what has been read of it, every 16 MiB."""

    def __init__(self, descriptor: int, path: Path, progress: Progress) -> None:
        super().__init__(descriptor, path)
        self._progress = progress
        self._stage, self._base, self._total = "", 0, 0
        self._done = self._told = self._read = 0

    def begin(self, stage: str, base: int, total: int) -> None:
        """Start a stage that will read about `total` bytes, from file offset `base` on; the last one ends."""
        self.finish()
        self._stage, self._base, self._total = stage, base, total
        self._done = self._told = self._read = 0
        self._progress(stage, 0, total)

    def finish(self) -> None:
        """End the stage."""
        if self._stage:
            self._progress(self._stage, self._total, self._total)
        self._stage = ""

    def release(self, offset: int) -> None:
        """As in FileSource: the index is read up to here."""
        self._reached(offset - self._base)
        super().release(offset)

    def passed(self, length: int) -> None:
        """As in FileSource: the oracles look at pages in whatever order, each once."""
        self._read += length
        self._reached(self._read)

    def _reached(self, done: int) -> None:
        self._done = max(self._done, min(done, self._total))
        if self._stage and self._done - self._told >= _STEP:
            self._told = self._done
            self._progress(self._stage, self._done, self._total)
