"""Waits longer where the host gives QEMU too little processor time to blame it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, HostTooBusy
from harness.linux.run_queue import LEAST_GRANTED, ProcessorTime, processor_time
from harness.qemu.machine import Machine, known_pid

MOST_SECONDS = 60.0
"""How long is waited on a busy host."""

_STEP_SECONDS = 0.5
_ANSWER_SECONDS = 10.0


class PatientDeadline(Deadline):
    """A deadline that moves, up to a second limit, until QEMU has got enough processor time.

    Enough is what it gets within the first limit on a host that grants it LEAST_GRANTED of what it wants.
    """

    def __init__(
        self,
        seconds: float,
        pid: int,
        most_seconds: float = MOST_SECONDS,
        times: Callable[[int], ProcessorTime] = processor_time,
    ) -> None:
        """Begin to wait.

        Args:
            seconds: the limit on a host that is not too busy.
            pid: QEMU's process.
            most_seconds: the limit on one that is.
            times: returns the processor times of a process since its start.
        """
        super().__init__(seconds)
        self._pid = pid
        self._times = times
        self._before = times(pid)
        self._begun = time.monotonic()
        self._most_seconds = most_seconds

    @property
    def waited(self) -> float:
        """Return the seconds since it began."""
        return time.monotonic() - self._begun

    @property
    def granted(self) -> float:
        """Return the share of the wanted processor time that QEMU got since it began."""
        return self._times(self._pid).since(self._before).granted

    @property
    def enough(self) -> bool:
        """Return whether QEMU has got so much processor time that what has not happened is evidence."""
        return self.granted * self.waited >= LEAST_GRANTED * self.seconds

    def remaining(self) -> float:
        """Return the seconds left, on a busy host those until it is looked at again."""
        if left := super().remaining():
            return left
        more = self._most_seconds - self.waited
        if more <= 0 or self.enough:
            return 0.0
        return min(_STEP_SECONDS, more)

    def require_granted(self, what: str) -> None:
        """Check that what did not happen in time is evidence.

        Args:
            what: did not happen, as the subject of a sentence.

        Raises:
            HostTooBusy: QEMU got too little processor time.
        """
        if not self.enough:
            raise HostTooBusy(
                f"{what} did not happen within {self.waited:.0f} s, and QEMU got {self.granted:.0%} of the "
                "processor time that it wanted, which says nothing about the snapshot; run less beside it."
            )


@contextmanager
def patient(machine: Machine, seconds: float = _ANSWER_SECONDS) -> Iterator[PatientDeadline]:
    """Yield a deadline for what a device has to do at once.

    Args:
        machine: QEMU.
        seconds: the limit on a host that is not too busy.

    Raises:
        HostTooBusy: it expired, and QEMU got too little processor time.
    """
    deadline = PatientDeadline(seconds, known_pid(machine))
    try:
        yield deadline
    except DeadlineExpired:
        deadline.require_granted("The answer of a device")
        raise
