"""Numbers what a stream carries, so that each item shows whether it was sent before or after T0."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """How many items a stream carries around one snapshot.

    Attributes:
        consumed: those that have arrived before T0.
        in_flight: those that are on their way at T0.
        later: those that are sent after T0, to the source and to the restored guest each.
    """

    consumed: int
    in_flight: int
    later: int

    @property
    def total(self) -> int:
        """Return how many numbers belong to one snapshot."""
        return self.consumed + self.in_flight + 2 * self.later


@dataclass(frozen=True)
class Numbers:
    """The numbers of the items around one snapshot; see `Counts`.

    Attributes:
        consumed: arrived before T0.
        in_flight: on their way at T0.
        source: sent to the source after T0.
        restored: sent to the restored guest.
    """

    consumed: range
    in_flight: range
    source: range
    restored: range

    @classmethod
    def of(cls, snapshot: int, counts: Counts) -> Numbers:
        """Return the numbers of one snapshot; no number occurs in two snapshots.

        Args:
            snapshot: its number, from 0.
            counts: the stream's.
        """
        sizes = (counts.consumed, counts.in_flight, counts.later, counts.later)
        at = snapshot * counts.total
        ranges = []
        for size in sizes:
            ranges.append(range(at, at + size))
            at += size
        return cls(*ranges)

    @property
    def before(self) -> range:
        """Return those that are sent before T0."""
        return range(self.consumed.start, self.in_flight.stop)
