"""Estimates the ratio of B to A from pairs: its interval, the verdict, and how many pairs are missing.

The value of a pair is the natural logarithm of B's figure over A's, both measured back to back. The estimate
is the Hodges-Lehmann estimator; its interval is the inverted Wilcoxon signed-rank test (Hollander, Wolfe,
Chicken: Nonparametric Statistical Methods, 3rd edition, 3.2 and 3.3). It assumes that the logarithms are
symmetric about the true value, which holds if A and B have the same noise.
docs/decisions/010-ab-gate-statistics.md says why this method was chosen, and how often it errs.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

# Standard deviation over median absolute deviation of a normal distribution.
_MAD_TO_DEVIATION = 1.4826
_MARGIN = 2
_LOOK_GROWTH = math.sqrt(2)
MOST_PAIRS = 500
"""Limit of `--max-pairs`: counting sign patterns takes seconds then, and the saves take more than a day."""


class RatioVerdict(enum.Enum):
    """The verdict of an interval of the ratio; see `judge`."""

    BETTER = "better"
    SAME = "same"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Estimate:
    """An estimate of the ratio B/A.

    Attributes:
        ratio: the estimate.
        low: lower end of its interval.
        high: upper end of its interval.
        level: confidence of the interval, e.g. 0.99.
        pairs: number of pairs that it is made from.
    """

    ratio: float
    low: float
    high: float
    level: float
    pairs: int


@cache
def _signed_rank_counts(n: int) -> tuple[int, ...]:
    """Count how many of the 2**n sign patterns of n ranks give each rank sum 0 .. n(n+1)/2."""
    counts = [1]
    for rank in range(1, n + 1):
        shifted = [0] * rank + counts
        counts = [a + b for a, b in zip(counts + [0] * rank, shifted, strict=True)]
    return tuple(counts)


def signed_rank_cut(n: int, tail: float) -> int:
    """Return the largest k with P(rank sum < k) <= tail for n pairs, 0 where n is too small for such a tail.

    The k-th smallest and the k-th largest Walsh average are the ends of an interval that misses the true
    value on either side with a probability of at most `tail`. The result is exact, by counting.
    """
    below, total = 0, 2**n
    for k, count in enumerate(_signed_rank_counts(n)):
        below += count
        if below > tail * total:
            return k
    return 0


def fewest_pairs(level: float) -> int:
    """Return the smallest number of pairs for which there is an interval of this confidence."""
    return max(1, math.ceil(math.log2(2 / (1 - level))))


def walsh_averages(values: Sequence[float]) -> np.ndarray:
    """Return the sorted averages of all pairs of values, each value with itself too: n(n+1)/2 of them."""
    given = np.asarray(values, dtype=float)
    first, second = np.triu_indices(len(given))
    return np.sort((given[first] + given[second]) / 2)


def estimate(log_ratios: Sequence[float], level: float) -> Estimate:
    """Estimate the ratio and its interval.

    Args:
        log_ratios: the natural logarithm of B/A for each pair; at least one.
        level: confidence of the interval. With fewer than `fewest_pairs(level)` pairs it is unbounded.
    """
    averages = walsh_averages(log_ratios)
    cut = signed_rank_cut(len(log_ratios), (1 - level) / 2)
    low, high = (averages[cut - 1], averages[-cut]) if cut else (-math.inf, math.inf)
    return Estimate(
        float(math.exp(np.median(averages))), math.exp(low), math.exp(high), level, len(log_ratios)
    )


def judge(found: Estimate, limit: float) -> RatioVerdict:
    """Judge an interval.

    Args:
        found: the estimate.
        limit: ratio up to which B is good enough, above 1: 1 + the allowed regression.

    Returns:
        WORSE if the whole interval is above the limit, UNDECIDED if part of it is, BETTER if the whole
        interval is below 1/limit, else SAME.
    """
    if found.low > limit:
        return RatioVerdict.WORSE
    if found.high > limit:
        return RatioVerdict.UNDECIDED
    return RatioVerdict.BETTER if found.high < 1 / limit else RatioVerdict.SAME


def looks(first: int, last: int) -> tuple[int, ...]:
    """Return the numbers of pairs after which the gate looks: sqrt(2) times as many each time."""
    at = [first]
    while at[-1] < last:
        at.append(min(last, math.ceil(at[-1] * _LOOK_GROWTH)))
    return tuple(at)


def level_per_look(confidence: float, number: int) -> float:
    """Return the confidence of each look such that all looks together err no more than one (Bonferroni)."""
    return 1 - (1 - confidence) / number


def more_pairs(found: Estimate, limit: float) -> int | None:
    """Estimate how many further pairs may decide, if the ratio stays and the interval shrinks as 1/sqrt(n).

    The result is twice as many as that: the end of the interval, which decides, is subject to chance itself,
    and more looks make each interval wider.

    Returns:
        None if the ratio is so near the limit that it would take more than MOST_PAIRS.
    """
    if math.isinf(found.high):
        return fewest_pairs(found.level) - found.pairs
    distance = abs(math.log(found.ratio) - math.log(limit))
    wide = math.log(found.high / found.ratio) if found.ratio < limit else math.log(found.ratio / found.low)
    if distance == 0 or (needed := _MARGIN * found.pairs * (wide / distance) ** 2) > MOST_PAIRS:
        return None
    return max(1, math.ceil(needed) - found.pairs)


def relative_spread(values: Sequence[float]) -> float:
    """Return 1.4826 times the median absolute deviation, as a share of the median."""
    middle = float(np.median(values))
    return _MAD_TO_DEVIATION * float(np.median(np.abs(np.asarray(values) - middle))) / middle
