"""The instants of one save, as its timeline shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SaveTimes:
    """When what happened to one save; all times in seconds since the epoch.

    Attributes:
        label: names the snapshot in its test, e.g. ``01-live``.
        begun: QEMU was told to save.
        stopped: STOP events of it, in order.
        resumed: RESUME events of it, in order.
        ended: QEMU first said that it is over; None where it never did.
        result: what QEMU said, e.g. ``completed``.
        progress: how many bytes were saved at what time.
        named: whether the label is the test's own, not a number.
    """

    label: str
    begun: float
    stopped: tuple[float, ...] = ()
    resumed: tuple[float, ...] = ()
    ended: float | None = None
    result: str = ""
    progress: tuple[tuple[float, float], ...] = ()
    named: bool = False

    @property
    def origin(self) -> float:
        """T0 as far as it is known: the first STOP, else the begin of the save."""
        return self.stopped[0] if self.stopped else self.begun

    @property
    def stuns(self) -> tuple[tuple[float, float], ...]:
        """From when to when the guest stood still; up to the end of the save where it was not resumed."""
        end = max([self.begun, *self.resumed, *([self.ended] if self.ended else [])])
        found = []
        for index, start in enumerate(self.stopped):
            limit = self.stopped[index + 1] if index + 1 < len(self.stopped) else float("inf")
            stop = next((time for time in self.resumed if start <= time <= limit), min(end, limit))
            found.append((start, max(start, stop)))
        return tuple(found)
