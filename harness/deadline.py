"""A deadline on the monotonic clock, which is passed down so that nested waits share one time limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness.errors import DeadlineExpired


class Deadline:
    """A point on the monotonic clock by which something must be done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left, never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.remaining() == 0.0

    def at_most(self, seconds: float) -> Deadline:
        """Return a deadline for one step: in `seconds`, but never later than this one."""
        return Deadline(min(seconds, self.remaining()))

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
