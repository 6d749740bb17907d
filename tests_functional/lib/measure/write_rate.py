"""Records how fast a guest's writers write, in equal intervals before, during and after a save."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from harness.errors import SnapproofError

INTERVAL_SECONDS = 0.1


@dataclass(frozen=True)
class WriteRate:
    """Pages written in each interval.

    Attributes:
        interval_ms: length of each interval.
        t_ms: begin of each interval relative to T0; an interval begins at T0.
        pages: pages that all writers wrote in each interval.
    """

    interval_ms: int = round(INTERVAL_SECONDS * 1000)
    t_ms: tuple[int, ...] = ()
    pages: tuple[int, ...] = ()

    def mean(self, from_ms: float, to_ms: float) -> float | None:
        """Return the mean of the intervals that lie wholly between two times, None where there is none."""
        found = [
            pages
            for begin, pages in zip(self.t_ms, self.pages, strict=True)
            if from_ms <= begin and begin + self.interval_ms <= to_ms
        ]
        return sum(found) / len(found) if found else None

    def to_json(self) -> dict[str, Any]:
        """Return its form in bench.json."""
        return {"interval_ms": self.interval_ms, "t_ms": list(self.t_ms), "pages": list(self.pages)}


def write_rate(
    times: Sequence[float], pages: Sequence[int], t0: float, interval: float = INTERVAL_SECONDS
) -> WriteRate:
    """Return the pages per interval from readings of the writers' counters.

    A reading may be late on a busy host. So the count at each boundary is interpolated between the readings
    around it, and a late reading does not shift later boundaries.

    Args:
        times: times of the readings, ascending, in seconds.
        pages: pages that had been written by then.
        t0: T0 on the same clock.
        interval: length of an interval in seconds.
    """
    milliseconds = round(interval * 1000)
    if not times:
        return WriteRate(milliseconds)
    first = int(np.ceil((times[0] - t0) / interval))
    last = int(np.floor((times[-1] - t0) / interval))
    edges = np.arange(first, last + 1)
    counts = np.rint(np.interp(t0 + edges * interval, times, pages)).astype(np.int64)
    return WriteRate(
        milliseconds,
        tuple(int(edge) * milliseconds for edge in edges[:-1]),
        tuple(int(count) for count in np.diff(counts)),
    )


class WriteRecorder:
    """Reads the writers' steps every 100 ms by the monotonic clock, in a thread of its own."""

    def __init__(self, steps: Callable[[], Sequence[int]]) -> None:
        self._steps = steps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record, name="write-rate", daemon=True)
        self.times: list[float] = []
        """Times of the readings, by time.monotonic()."""
        self.pages: list[int] = []
        """Pages that had been written by then."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _record(self) -> None:
        begun, number = time.monotonic(), 0
        while True:
            try:
                pages = sum(self._steps())
            except SnapproofError:
                # QEMU has ended; the thread that drives it finds out why.
                return
            now = time.monotonic()
            self.times.append(now)
            self.pages.append(pages)
            # The next reading that is still to come, so that a late reading does not shift the others.
            number = max(number + 1, int((now - begun) / INTERVAL_SECONDS) + 1)
            if self._stop.wait(begun + number * INTERVAL_SECONDS - time.monotonic()):
                return
