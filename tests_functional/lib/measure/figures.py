"""Computes statistics of measurements: quantiles of a histogram, median and spread of a few values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from guest_images.agent.format import fine_bucket_ns

Bucket = tuple[float, float, int]
"""Lower bound, upper bound, and how many values lie between them."""

STALL_QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def buckets_us(counts: Iterable[int]) -> list[Bucket]:
    """Return the buckets of an agent's fine histogram that count anything, in microseconds."""
    found = []
    for number, count in enumerate(counts):
        if count:
            first, end = fine_bucket_ns(number)
            found.append((first / 1e3, end / 1e3, int(count)))
    return found


def quantile(histogram: Sequence[Bucket], share: float) -> float | None:
    """Return the value that a share of all values does not exceed, None for an empty histogram.

    Values are assumed to be spread evenly inside a bucket, so the error is below a bucket's width.

    Args:
        histogram: buckets in ascending order that do not overlap.
        share: from 0 to 1.
    """
    total = sum(count for _, _, count in histogram)
    wanted, seen, upper = share * total, 0, None
    for first, end, count in histogram:
        if count and seen + count >= wanted:
            return first + (end - first) * (wanted - seen) / count
        seen += count
        upper = end if count else upper
    # Rounding can put a share of 1 above the sum.
    return upper


@dataclass(frozen=True)
class Spread:
    """Several measurements of one quantity.

    Attributes:
        median: the median.
        min: the smallest.
        max: the largest.
        iqr: from the first quartile to the third, both by linear interpolation.
    """

    median: float
    min: float
    max: float
    iqr: float

    def to_json(self) -> dict[str, float]:
        """Return its form in bench.json."""
        return {name: round(value, 3) for name, value in vars(self).items()}


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of some values, None where there are none."""
    if not values:
        return None
    iqr = 0.0
    if len(values) > 1:
        first, _, third = quantiles(values, method="inclusive")
        iqr = third - first
    return Spread(median(values), min(values), max(values), iqr)
