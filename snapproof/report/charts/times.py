"""The times of one save, from which its timeline is drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SaveTimes:
    """The times of one save, all in seconds since the epoch.

    Attributes:
        label: name of the snapshot in its test, e.g. ``01-live``.
        begun: when QEMU was told to save.
        stopped: its STOP events, in order.
        resumed: its RESUME events, in order.
        ended: when QEMU first reported the end of the save, None if it never did.
        result: the status that QEMU reported then, e.g. ``completed``.
        progress: pairs of a time and the bytes saved by then.
        named: whether the label is the test's own, and not a number.
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
        """T0 as far as it is known: the first STOP, or else the begin of the save."""
        return self.stopped[0] if self.stopped else self.begun

    @property
    def stuns(self) -> tuple[tuple[float, float], ...]:
        """The times from STOP to RESUME; up to the end of the save if the guest was not resumed."""
        end = max([self.begun, *self.resumed, *([self.ended] if self.ended else [])])
        found = []
        for index, start in enumerate(self.stopped):
            limit = self.stopped[index + 1] if index + 1 < len(self.stopped) else float("inf")
            stop = next((time for time in self.resumed if start <= time <= limit), min(end, limit))
            found.append((start, max(start, stop)))
        return tuple(found)
