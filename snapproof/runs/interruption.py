"""Gives SIGINT, SIGTERM and SIGHUP one clear end at any time, and remembers that one has come.

On Ctrl-C Avocado ends only one suite, and an exception that a signal raises may be swallowed: in a
finalizer, or by a library's bare ``except``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

from harness.status import EXIT_INTERRUPTED as EXIT_INTERRUPTED

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A second signal so soon must not break off the end that the first one began.
_CLEANING_SECONDS = 5.0
_asked = False
_last = 0.0
_raises = True


def end_at_once() -> None:
    """Make a signal end the process without an exception, which an import may swallow.

    For the time before the command has started anything.
    """

    def end(_signum: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.write(2, b"snapproof: Interrupted; nothing had been started.\n")
        os._exit(EXIT_INTERRUPTED)

    _handle(end)


def ignore() -> None:
    """Ignore signals from now on: all is done, and the process is about to end."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def listen() -> None:
    """Make the signals interrupt the command by KeyboardInterrupt, so that it cleans up."""
    global _asked
    _asked = False
    _handle(_interrupt)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in _SIGNALS:
        # `nohup` ignores SIGHUP, and that is to stay so.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


@contextlib.contextmanager
def only_noted() -> Iterator[None]:
    """Raise nothing for a first signal in this block, which asks `asked_to_stop` often and ends by itself.

    For event loops, in which an exception out of nothing may end a coroutine that others wait for. A further
    signal after some seconds raises KeyboardInterrupt, so that a block that hangs can be left.
    """
    global _raises
    _raises = False
    try:
        yield
    finally:
        _raises = True


def asked_to_stop() -> bool:
    """Return whether a signal has come since `listen`, even if the exception that it raised was swallowed."""
    return _asked


def say_interrupted() -> int:
    """Print that the command was interrupted, and return its exit code."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print("snapproof: Interrupted; everything it started has been ended.", file=sys.stderr, flush=True)
    return EXIT_INTERRUPTED


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    global _asked, _last
    now = time.monotonic()
    raises = now - _last >= _CLEANING_SECONDS if _asked else _raises
    _asked, _last = True, now
    if raises:
        raise KeyboardInterrupt
