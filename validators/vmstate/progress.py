"""Reports how much of a file has been read; the loops that read it need no code for that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from validators.vmstate.stream.source import FileSource

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, bytes done and bytes in all; the bytes done grow up to all of them."""

_STEP = 16 << 20


class WatchedSource(FileSource):
    """A file that reports every 16 MiB how much of it has been read."""

    def __init__(self, descriptor: int, path: Path, progress: Progress) -> None:
        super().__init__(descriptor, path)
        self._progress = progress
        self._stage, self._base, self._total = "", 0, 0
        self._done = self._told = self._read = 0

    def begin(self, stage: str, base: int, total: int) -> None:
        """End the last stage and start one that will read about `total` bytes from file offset `base` on."""
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
        """Drop mapped pages before `offset`, and report that the index has been read up to there."""
        self._reached(offset - self._base)
        super().release(offset)

    def passed(self, length: int) -> None:
        """Report that `length` more bytes of pages have been looked at, in any order."""
        self._read += length
        self._reached(self._read)

    def _reached(self, done: int) -> None:
        self._done = max(self._done, min(done, self._total))
        if self._stage and self._done - self._told >= _STEP:
            self._told = self._done
            self._progress(self._stage, self._done, self._total)
