"""Contract: the A/B gate's interval is Wilcoxon's, and it errs as rarely as it states."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest

from snapproof.bench.ab import statistics
from snapproof.bench.ab.statistics import Estimate, RatioVerdict
from tests_unit.snapproof.bench.ab_simulation import LIMIT, NOISES, simulated

_STATS: Any = importlib.import_module("scipy.stats")
_PLAN = statistics.looks(10, 40)


@pytest.mark.parametrize(
    ("n", "tail", "cut"),
    # Critical values T of the signed-rank test, one-sided; the cut is T + 1.
    [(8, 0.025, 4), (10, 0.005, 4), (12, 0.005, 8), (20, 0.025, 53), (25, 0.005, 69), (4, 0.05, 0)],
)
def test_cut_is_that_of_published_tables(n: int, tail: float, cut: int) -> None:
    """See Wilcoxon and Wilcox, Some Rapid Approximate Statistical Procedures (1964), table 2."""
    assert statistics.signed_rank_cut(n, tail) == cut


@pytest.mark.parametrize("seed", range(20))
def test_interval_holds_what_the_test_does_not_reject(seed: int) -> None:
    """A shift just inside the interval is not rejected by scipy's exact test, one just outside is."""
    random = np.random.default_rng(seed)
    logs = random.normal(0.1, 0.05, 9 + seed)
    level = 0.98
    found = statistics.estimate(list(logs), level)
    for end, inward in ((found.low, 1e-6), (found.high, -1e-6)):
        inside = _STATS.wilcoxon(logs - math.log(end) - inward, method="exact").pvalue
        outside = _STATS.wilcoxon(logs - math.log(end) + inward, method="exact").pvalue
        assert inside > 1 - level >= outside
    assert found.low < found.ratio < found.high


def test_too_few_pairs_have_no_interval() -> None:
    """Too few pairs give an unbounded interval, so the verdict is UNDECIDED."""
    found = statistics.estimate([0.5] * 5, 0.99)
    assert found.ratio == pytest.approx(math.exp(0.5))
    assert found.low == 0
    assert math.isinf(found.high)
    assert statistics.judge(found, 1.1) is RatioVerdict.UNDECIDED
    assert statistics.fewest_pairs(0.99) == 8
    assert statistics.more_pairs(found, 1.1) == 3
    assert not math.isinf(statistics.estimate([0.5] * 8, 0.99).high)


def _found(low: float, high: float, pairs: int = 10) -> Estimate:
    return Estimate(math.sqrt(low * high), low, high, 0.99, pairs)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.11, 1.3, RatioVerdict.WORSE),
        (1.09, 1.3, RatioVerdict.UNDECIDED),
        (0.98, 1.11, RatioVerdict.UNDECIDED),
        (0.98, 1.02, RatioVerdict.SAME),
        (1.02, 1.09, RatioVerdict.SAME),
        (0.8, 0.95, RatioVerdict.SAME),
        (0.8, 0.9, RatioVerdict.BETTER),
    ],
)
def test_verdicts(low: float, high: float, verdict: RatioVerdict) -> None:
    """A verdict needs the whole interval on one side of the limit."""
    assert statistics.judge(_found(low, high), 1.1) is verdict


def test_looks_share_the_error() -> None:
    """The errors of all looks add up to at most that of one."""
    assert _PLAN == (10, 15, 22, 32, 40)
    assert statistics.looks(10, 10) == (10,)
    assert statistics.level_per_look(0.95, len(_PLAN)) == pytest.approx(0.99)


def test_more_pairs() -> None:
    """An interval twice as wide as the distance needs four times as many pairs; the advice is twice that."""
    limit = 1.1
    half = 2 * math.log(limit / 1.0)
    assert statistics.more_pairs(_found(math.exp(-half), math.exp(half)), limit) == 70
    assert statistics.more_pairs(_found(1.0, limit**2), limit) is None
    assert statistics.more_pairs(_found(1.05, 1.149), limit) is None


def test_spread_takes_no_notice_of_an_outlier() -> None:
    """The spread is that of the other values."""
    assert statistics.relative_spread([99, 100, 101, 100, 100, 5000]) == pytest.approx(0.0074, abs=0.0001)
    assert statistics.relative_spread([5.0, 5.0]) == 0


@pytest.mark.parametrize("name", NOISES)
def test_false_alarms_are_rare(name: str) -> None:
    """Equal sides give none; sides that differ by the limit give at most 2.5 % of either error."""
    found, _ = simulated(NOISES[name], 1.0, 300, _PLAN)
    assert found[RatioVerdict.WORSE] == found[RatioVerdict.BETTER] == 0
    found, _ = simulated(NOISES[name], LIMIT, 300, _PLAN)
    # 300 times 2.5 %, plus three standard deviations.
    assert found[RatioVerdict.WORSE] <= 16
    assert found[RatioVerdict.SAME] <= 16


@pytest.mark.parametrize(("name", "power"), [("quiet host", 1.0), ("busy host", 0.85)])
def test_slowdown_of_a_fifth_is_found(name: str, power: float) -> None:
    """A slowdown of 20 % is WORSE, on a quiet host always, within 12 pairs; equal sides are SAME as often."""
    found, pairs = simulated(NOISES[name], 1.2, 300, _PLAN)
    assert found[RatioVerdict.WORSE] >= 300 * power
    assert found[RatioVerdict.SAME] == found[RatioVerdict.BETTER] == 0
    assert pairs < 12 or name == "busy host"
    cleared, _ = simulated(NOISES[name], 1.0, 300, _PLAN)
    assert cleared[RatioVerdict.SAME] >= 300 * power
