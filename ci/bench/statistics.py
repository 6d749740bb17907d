"""What pairs of measurements say about the ratio of B to A: an interval, a verdict, and how much is missing.

The unit is a pair: the natural logarithm of what B took over what A took, both measured one right after
the other. The estimate is the Hodges-Lehmann one, its interval that of Wilcoxon's signed-rank test turned
around (Hollander, Wolfe, Chicken: Nonparametric Statistical Methods, 3rd edition, 3.2 and 3.3). It assumes
that the logarithms lie symmetrically about the true one, which is so where A and B have the same noise. Why
this one, and how often it errs: docs/decisions/010-ab-gate-statistics.md.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

# Of a normal distribution, standard deviation over median absolute deviation.
_MAD_TO_DEVIATION = 1.4826
_MARGIN = 2
_LOOK_GROWTH = math.sqrt(2)
MOST_PAIRS = 500
"""That a gate may take; counting sign patterns takes seconds then, and a day would not do for the saves."""


class Verdict(enum.Enum):
    """What the interval of the ratio says; `limit` is 1 + the regression that is allowed."""

    BETTER = "better"
    SAME = "same"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Estimate:
    """The ratio B/A as pairs tell it.

    Attributes:
        ratio: the estimate.
        low: lower end of its interval.
        high: upper end of its interval.
        level: confidence of the interval, e.g. 0.99.
        pairs: how many there were.
    """

    ratio: float
    low: float
    high: float
    level: float
    pairs: int


@cache
def _signed_rank_counts(n: int) -> tuple[int, ...]:
    """How many of the 2**n sign patterns of n ranks give each rank sum 0 .. n(n+1)/2."""
    counts = [1]
    for rank in range(1, n + 1):
        shifted = [0] * rank + counts
        counts = [a + b for a, b in zip(counts + [0] * rank, shifted, strict=True)]
    return tuple(counts)


def signed_rank_cut(n: int, tail: float) -> int:
    """The largest k with P(rank sum < k) <= tail for n pairs: 0 where n is too small for such a tail.

    The k-th smallest and the k-th largest Walsh average are then the ends of an interval that misses the
    truth on either side with probability `tail` at most; exact, by counting.
    """
    below, total = 0, 2**n
    for k, count in enumerate(_signed_rank_counts(n)):
        below += count
        if below > tail * total:
            return k
    return 0


def fewest_pairs(level: float) -> int:
    """The smallest number of pairs that an interval of this confidence can be given for."""
    return max(1, math.ceil(math.log2(2 / (1 - level))))


def walsh_averages(values: Sequence[float]) -> np.ndarray:
    """The averages of all pairs of values, each with itself too, sorted: n(n+1)/2 of them."""
    given = np.asarray(values, dtype=float)
    first, second = np.triu_indices(len(given))
    return np.sort((given[first] + given[second]) / 2)


def estimate(log_ratios: Sequence[float], level: float) -> Estimate:
    """The ratio and its interval.

    Args:
        log_ratios: one natural logarithm of B/A for each pair, at least one.
        level: confidence; with fewer than `fewest_pairs` of it the interval has no ends.
    """
    averages = walsh_averages(log_ratios)
    cut = signed_rank_cut(len(log_ratios), (1 - level) / 2)
    low, high = (averages[cut - 1], averages[-cut]) if cut else (-math.inf, math.inf)
    return Estimate(
        float(math.exp(np.median(averages))), math.exp(low), math.exp(high), level, len(log_ratios)
    )


def judge(found: Estimate, limit: float) -> Verdict:
    """The verdict on an interval.

    Args:
        found: the estimate.
        limit: ratio up to which B is good enough, above 1.

    Returns:
        WORSE where the whole interval is above the limit; BETTER where it is as far on the other side, SAME
        where it is not above the limit; else UNDECIDED.
    """
    if found.low > limit:
        return Verdict.WORSE
    if found.high > limit:
        return Verdict.UNDECIDED
    return Verdict.BETTER if found.high < 1 / limit else Verdict.SAME


def looks(first: int, last: int) -> tuple[int, ...]:
    """After how many pairs the gate looks whether it can decide: sqrt(2) times as many each time."""
    at = [first]
    while at[-1] < last:
        at.append(min(last, math.ceil(at[-1] * _LOOK_GROWTH)))
    return tuple(at)


def level_per_look(confidence: float, number: int) -> float:
    """The confidence of each look, so that all of them together err no more often than one (Bonferroni)."""
    return 1 - (1 - confidence) / number


def more_pairs(found: Estimate, limit: float) -> int | None:
    """How many further pairs might decide, if the ratio stays and the interval shrinks as 1/sqrt(n).

    With twice as many as that: what decides is the interval's end, which itself is off by chance, and more
    looks make each interval wider.

    Returns:
        None where the ratio is so near the limit that no sensible number would.
    """
    if math.isinf(found.high):
        return fewest_pairs(found.level) - found.pairs
    distance = abs(math.log(found.ratio) - math.log(limit))
    wide = math.log(found.high / found.ratio) if found.ratio < limit else math.log(found.ratio / found.low)
    if distance == 0 or (needed := _MARGIN * found.pairs * (wide / distance) ** 2) > MOST_PAIRS:
        return None
    return max(1, math.ceil(needed) - found.pairs)


def relative_spread(values: Sequence[float]) -> float:
    """Spread of measurements as a share of their median: 1.4826 times the median absolute deviation."""
    middle = float(np.median(values))
    return _MAD_TO_DEVIATION * float(np.median(np.abs(np.asarray(values) - middle))) / middle
