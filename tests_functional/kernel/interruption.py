"""Ends a runner by its first SIGINT, SIGTERM or SIGHUP, and lets no signal stop what undoes its changes.

Ctrl-C reaches the runner and the command that started it, and that one then sends SIGTERM: there are two
signals for one wish.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a runner."""


def interrupt_once() -> None:
    """Make the first of the signals raise KeyboardInterrupt, and have those after it ignored."""
    for number in SIGNALS:
        # `nohup` ignores SIGHUP, and that is to stay so.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait until the end of a block; by handlers, since a mask would be this thread's alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, lambda signum, _: came.append(signum))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for signum in came[:1]:
            signal.raise_signal(signum)
