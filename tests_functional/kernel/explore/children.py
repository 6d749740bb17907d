"""Forks children of a list's process, which check what they have got, and live until they are ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from typing import Callable

_CHECK_SECONDS = 20.0
_WAIT_SECONDS = 3.0
_MOST_BYTES = 2000

SLOW = "broken: it gave no answer"
"""What is said of a child that gave no answer; the sentence of one that cannot check begins so too."""


class Children:
    """The children that live; `end` ends them."""

    def __init__(self) -> None:
        self._living: list[tuple[int, int]] = []

    def fork(self, check: Callable[[], str], stays: bool) -> str:
        """Fork a child that makes a check; return the check's sentence, empty if all is right.

        Args:
            check: called in the child.
            stays: whether the child lives on after it.
        """
        answers, answer = os.pipe2(os.O_CLOEXEC)
        orders, order = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            self._serve(check, stays, answer, (order, *(end for _, end in self._living)), orders)
        os.close(answer)
        os.close(orders)
        self._living.append((child, order))
        try:
            said = _answer(child, answers)
        finally:
            os.close(answers)
        if not stays or said != "ok":
            self._end_one(*self._living.pop())
        return "" if said == "ok" else said

    def end_first(self) -> None:
        """End the child that has lived longest, if there is one."""
        if self._living:
            self._end_one(*self._living.pop(0))

    def end(self) -> None:
        """End all children."""
        while self._living:
            self.end_first()

    def _end_one(self, child: int, order: int) -> None:
        os.close(order)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)

    def _serve(
        self, check: Callable[[], str], stays: bool, answer: int, others: tuple[int, ...], orders: int
    ) -> None:
        """Make the check in the child, say what it found, and exit without running the parent's code."""
        try:
            for descriptor in others:
                os.close(descriptor)
            os.write(answer, (check() or "ok").encode()[:_MOST_BYTES])
            if stays:
                os.read(orders, 1)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(answer, f"broken: {type(error).__name__}: {error}".encode()[:_MOST_BYTES])
        finally:
            os._exit(0)


def _answer(child: int, answers: int) -> str:
    """Return what a child says, or that it waits for a page."""
    end, waits = time.monotonic() + _CHECK_SECONDS, 0.0
    poll = select.poll()
    poll.register(answers, select.POLLIN | select.POLLHUP)
    while time.monotonic() < end:
        if poll.poll(100):
            return os.read(answers, _MOST_BYTES).decode() or SLOW
        waits = (waits or time.monotonic()) if _waits_for_page(child) else 0.0
        if waits and time.monotonic() - waits > _WAIT_SECONDS:
            return "waits for a page, although it has no userfaultfd."
    return SLOW


def _waits_for_page(child: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{child}/wchan").read_text() == "handle_userfault"
    return False
