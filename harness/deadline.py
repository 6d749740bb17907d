"""A deadline on the monotonic clock, which is passed down so that nested waits share one time limit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.errors import DeadlineExpired, UsageError

PATIENCE_VARIABLE = "SNAPPROOF_PATIENCE"
"""Environment variable by which all time limits are multiplied; the processes of a run inherit it."""

MOST_PATIENCE = 1000.0
"""The largest factor: with more of it a hang would not end a run within a day."""


def patience() -> float:
    """Return the factor by which all time limits are multiplied, 1.0 where none is set.

    Raises:
        UsageError: the environment variable has no number from 1 to MOST_PATIENCE.
    """
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        return read_patience(text or "1")
    except ValueError as error:
        raise UsageError(
            f"{PATIENCE_VARIABLE} is '{text}'; it multiplies time limits, so give it a number from 1 to "
            f"{MOST_PATIENCE:.0f}."
        ) from error


def read_patience(text: str) -> float:
    """Return the factor that a text names; raise ValueError where it is no number from 1 to MOST_PATIENCE."""
    factor = float(text)
    if not 1 <= factor <= MOST_PATIENCE:
        raise ValueError
    return factor


@contextmanager
def more_patience(factor: float | None) -> Iterator[None]:
    """Multiply the time limits of this process, and of those that it starts, by a factor.

    Args:
        factor: as `read_patience` returns it, None to change none.
    """
    before = os.environ.get(PATIENCE_VARIABLE)
    if factor is not None:
        os.environ[PATIENCE_VARIABLE] = f"{factor:g}"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(PATIENCE_VARIABLE, None)
        else:
            os.environ[PATIENCE_VARIABLE] = before


def patient(seconds: float) -> float:
    """Return a time limit for a host as slow as `patience` says, for waits that take no Deadline."""
    return seconds * patience()


class Deadline:
    """A point on the monotonic clock by which something must be done.

    Attributes:
        seconds: the time from the beginning to that point; `patience` is in it.
    """

    def __init__(self, seconds: float) -> None:
        """Begin to wait.

        Args:
            seconds: the time limit on a usual host.
        """
        self.seconds = patient(seconds)
        self._end = time.monotonic() + self.seconds

    def remaining(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.remaining() == 0.0

    def at_most(self, seconds: float) -> Deadline:
        """Return a deadline for one step: in `seconds` on a usual host, but never later than this one."""
        step, left = Deadline(seconds), self.remaining()
        if left < step.seconds:
            step.seconds, step._end = left, time.monotonic() + left
        return step

    def check(self, what: str) -> None:
        """Raise DeadlineExpired if no time is left; `what` is the subject of its sentence."""
        if self.expired:
            raise DeadlineExpired(f"{what} did not happen within {self.seconds:.0f} s.")

    def wait_for(self, condition: Callable[[], bool], what: str, interval: float = 0.02) -> None:
        """Poll `condition` until it holds.

        Args:
            condition: called every `interval` seconds; may raise to end the wait early.
            what: names the awaited condition in the error, as the subject of a sentence.
            interval: seconds between two calls.

        Raises:
            DeadlineExpired: the condition did not hold in time.
        """
        while not condition():
            self.check(what)
            self.nap(interval)

    def nap(self, seconds: float) -> None:
        """Sleep between two checks of a condition, but never past the deadline."""
        time.sleep(min(seconds, self.remaining()))
