"""Contract: quantiles, spreads, write rates and the agent's fine histogram are calculated correctly."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest_images.agent.format import FINE_BUCKETS, fine_bucket_ns
from tests_functional.lib.measure.figures import Spread, buckets_us, quantile, spread
from tests_functional.lib.measure.memory_use import kib
from tests_functional.lib.measure.sample import stall_quantiles
from tests_functional.lib.measure.write_rate import WriteRecorder, write_rate


def _bucket_of(ns: int) -> int:
    """Return the bucket by the rule of docs/agent-format.md."""
    if ns < 16:
        return ns
    shift = ns.bit_length() - 4
    return min(8 * shift + (ns >> shift), FINE_BUCKETS - 1)


def test_fine_buckets_follow_one_another() -> None:
    """Buckets cover 0 to 2^37 ns without a gap, and none is wider than an eighth of its begin."""
    end = 0
    for bucket in range(FINE_BUCKETS):
        first, after = fine_bucket_ns(bucket)
        assert first == end
        assert after - first <= max(1, first / 8)
        assert _bucket_of(first) == _bucket_of(after - 1) == bucket
        end = after
    assert end == 1 << 37


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 1 << 36), min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.99, 0.999, 1.0])
)
def test_quantile_is_off_by_less_than_a_bucket(values: list[int], share: float) -> None:
    """A quantile differs from the exact one by at most an eighth."""
    counts = np.zeros(FINE_BUCKETS, np.uint64)
    for value in values:
        counts[_bucket_of(value)] += np.uint64(1)
    found = quantile(buckets_us(counts), share)
    exact = sorted(values)[max(0, math.ceil(share * len(values)) - 1)] / 1e3
    assert found is not None
    assert abs(found - exact) <= max(0.001, exact / 7)


def test_quantile_of_many_is_within_ten_percent() -> None:
    """Quantiles of a long-tailed distribution are off by less than 10 %."""
    numbers = random.Random(3)
    values = sorted(int(numbers.lognormvariate(8, 2)) + 1 for _ in range(20_000))
    counts = np.zeros(FINE_BUCKETS, np.uint64)
    for value in values:
        counts[_bucket_of(value)] += np.uint64(1)
    for share in (0.5, 0.99, 0.999):
        found = quantile(buckets_us(counts), share)
        assert found == pytest.approx(values[math.ceil(share * len(values)) - 1] / 1e3, rel=0.1)


def test_quantile_of_nothing_is_none() -> None:
    """An empty histogram has no quantile."""
    assert quantile([], 0.5) is None
    assert quantile([(0, 1, 0)], 0.5) is None


def test_quantile_of_all_is_the_end_of_the_last_bucket() -> None:
    """Also if rounding puts the share a little above all values; buckets without values do not count."""
    histogram = [(0.0, 1.0, 0), (1.0, 2.0, 3), (2.0, 4.0, 0)]
    assert quantile(histogram, 0.0) == 1.0
    assert quantile(histogram, 1.0) == quantile(histogram, 1.0 + 1e-9) == 2.0


def test_stalls_of_nothing_are_none() -> None:
    """An empty histogram has no figures."""
    assert stall_quantiles([], 0.0) == {"p50": None, "p99": None, "p99.9": None, "max": None}


def test_no_quantile_is_above_the_longest() -> None:
    """All quantiles are at most the exact maximum."""
    assert stall_quantiles([(1000.0, 2000.0, 1)], 1100.0) == {
        "p50": 1100.0,
        "p99": 1100.0,
        "p99.9": 1100.0,
        "max": 1100.0,
    }


def test_spread_of_a_few() -> None:
    """Median, extremes and interquartile range are right; one value has a range of 0."""
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 1.0, 5.0, 2.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 0.0)
    assert spread([7.0, 9.0]) == Spread(8.0, 7.0, 9.0, 1.0)
    assert Spread(1.23456, 0.0, 9.0, 2.0).to_json() == {"median": 1.235, "min": 0.0, "max": 9.0, "iqr": 2.0}
    assert spread([]) is None


def test_write_rate_has_t0_as_a_boundary_and_does_not_drift() -> None:
    """Late or missing readings do not shift intervals; a stall shows in the right ones."""
    t0 = 100.25
    times = [99.0, 99.13, 99.2, 99.5, 100.25, 100.45, 100.5, 101.0]
    # A thousand a second, none from 100.25 to 100.45.
    pages = [0, 130, 200, 500, 1250, 1250, 1300, 1800]
    rate = write_rate(times, pages, t0)
    assert rate.interval_ms == 100
    assert rate.t_ms == tuple(range(-1200, 700, 100))
    assert set(rate.pages[:12]) == {100}
    assert rate.pages[12:] == (0, 0, 100, 100, 100, 100, 100)


def test_write_rate_of_too_few_looks_is_empty() -> None:
    """A single reading gives no interval."""
    assert write_rate([1.0], [5], 1.0).pages == ()


def test_recorder_looks_at_a_fixed_interval() -> None:
    """The recorder reads ten times a second, and ends at once."""
    count = iter(range(10**6))
    with WriteRecorder(lambda: (next(count), 1)) as recorder:
        while len(recorder.times) < 4:
            time.sleep(0.01)
    # A busy host may delay a reading; later ones are on time again.
    assert recorder.times[3] - recorder.times[0] >= 0.2
    assert recorder.pages[:4] == [1, 2, 3, 4]


def test_kib_reads_one_field() -> None:
    """A right-aligned number is read; a missing line or another text gives None."""
    text = "Name:\tVmRSS: 3 kB\nVmRSS:\t   1234 kB\nVmPTE:      88 kB\nRssAnon: many kB\n"
    assert kib(text, "VmRSS") == 1234
    assert kib(text, "VmPTE") == 88
    assert kib(text, "RssAnon") is None
    assert kib(text, "AnonHugePages") is None


def test_quantiles_by_their_names() -> None:
    """Of a thousand values that lie evenly in one bucket."""
    found = stall_quantiles([(0.0, 1000.0, 1000)], 1000.0)
    assert found == pytest.approx({"p50": 500.0, "p99": 990.0, "p99.9": 999.0, "max": 1000.0})


def test_buckets_are_in_microseconds() -> None:
    """Those that count anything, by the agent's bounds in ns."""
    counts = np.zeros(FINE_BUCKETS, np.uint64)
    counts[143] = 2
    assert buckets_us(counts) == [(983.04, 1048.576, 2)]
