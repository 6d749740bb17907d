"""Draws a progress bar with rate and remaining time on a terminal, while a large file is judged."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

# Smaller files are done before a person has read the bar.
WORTH_BYTES = 1 << 30
_WIDTH = 30
_EVERY_SECONDS = 0.1


class ProgressBar:
    """Draws the bar over itself, and removes it at the end; draws nothing if the stream is no terminal.

    Use it as a context manager around the code that calls `update`.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._shown = self._stream.isatty()
        self._stage = ""
        self._begun = self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def update(self, stage: str, done: int, total: int) -> None:
        """Show how many bytes of a stage are done; cheap enough to be called for every megabyte."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._begun, self._drawn = stage, now, 0.0
        if not self._shown or (now - self._drawn < _EVERY_SECONDS and done < total):
            return
        self._drawn = now
        self._stream.write("\r\033[K" + bar_text(stage, done, total, now - self._begun))
        self._stream.flush()


def bar_text(stage: str, done: int, total: int, seconds: float) -> str:
    """Return one line: name of the stage, bar, share, rate and remaining time.

    Args:
        stage: name of the stage.
        done: bytes that are done.
        total: all bytes, 0 if there is nothing to do.
        seconds: since the stage began.
    """
    share = done / total if total > 0 else 1.0
    cells = int(_WIDTH * share)
    text = f"{stage:12} [{'#' * cells}{'-' * (_WIDTH - cells)}] {100 * share:3.0f} %"
    if done <= 0 or seconds <= 0:
        return text
    left = int((total - done) * seconds / done + 0.5)
    return f"{text}  {done / seconds / (1 << 20):6,.0f} MiB/s  {left // 60}:{left % 60:02d} left"
