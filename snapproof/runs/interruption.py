"""Whether somebody has asked the command to stop: Avocado takes Ctrl-C for the end of one suite only."""

from __future__ import annotations

import signal
import threading
from types import FrameType

EXIT_INTERRUPTED = 130
_ASKED = threading.Event()


def listen() -> None:
    """Have SIGINT and SIGTERM interrupt the command, and be remembered."""
    _ASKED.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def asked_to_stop() -> bool:
    """Whether a signal has come since `listen`, even where the exception it raised was swallowed."""
    return _ASKED.is_set()


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    _ASKED.set()
    raise KeyboardInterrupt
