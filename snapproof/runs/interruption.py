"""Remembers that a signal asked the command to stop, because on Ctrl-C Avocado ends only one suite."""

from __future__ import annotations

import signal
import threading
from types import FrameType

EXIT_INTERRUPTED = 130
_ASKED = threading.Event()


def listen() -> None:
    """Make SIGINT and SIGTERM interrupt the command, and remember that one has come."""
    _ASKED.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def asked_to_stop() -> bool:
    """Return whether a signal has come since `listen`, even if the exception that it raised was swallowed."""
    return _ASKED.is_set()


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    _ASKED.set()
    raise KeyboardInterrupt
