"""Shows the progress of a run: follows the JSON Lines file to which its tests append events."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

EVENTS_FILE = "events.jsonl"
_POLL_SECONDS = 0.1
_WIDTH = 110


class Progress:
    """Shows progress: a live line on a terminal, timestamped lines elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._start = time.monotonic()

    def step(self, text: str) -> None:
        """Show a step; on a terminal it replaces the step before."""
        elapsed = time.monotonic() - self._start
        if self._live:
            self._stream.write(f"\r\033[K[{elapsed:5.0f} s] {text[:_WIDTH]}")
        else:
            self._stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self._stream.flush()

    def line(self, text: str) -> None:
        """Print a line that later steps do not replace."""
        if self._live:
            self._stream.write("\r\033[K")
        self._stream.write(text + "\n")
        self._stream.flush()

    def done(self) -> None:
        """Clear the live line."""
        if self._live:
            self._stream.write("\r\033[K")
            self._stream.flush()


def timed_log(begun: float) -> Callable[[str], None]:
    """Return a function that prints a line on standard error with the seconds since `begun` (monotonic)."""

    def log(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {text}", file=sys.stderr, flush=True)

    return log


class EventTail:
    """Shows the events that tests append to a file, for the length of a `with`."""

    def __init__(
        self, path: Path, progress: Progress, tell: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Prepare to follow the file; entering the context starts it.

        Args:
            path: the file, which may not be there yet.
            progress: where the events are shown.
            tell: also called with each event, in the order of the file.
        """
        self._path = path
        self._progress = progress
        self._tell = tell
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)

    def __enter__(self) -> Self:
        self._path.touch()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._progress.done()

    def _follow(self) -> None:
        with self._path.open(encoding="utf-8") as stream:
            pending = ""
            while True:
                ending = self._stop.is_set()
                pending += stream.read()
                *lines, pending = pending.split("\n")
                for line in lines:
                    # A full disk cuts lines short; the others are still shown.
                    with contextlib.suppress(ValueError):
                        self._show(json.loads(line))
                if ending:
                    return
                self._stop.wait(_POLL_SECONDS)

    def _show(self, event: Mapping[str, Any]) -> None:
        if event["type"] == "step":
            self._progress.step(f"{event['test']}: {event['text']}")
        elif event["type"] == "test-ended":
            self._progress.step(f"{event['test']}: {event['status']}: {event['sentence']}")
        if self._tell:
            self._tell(event)
