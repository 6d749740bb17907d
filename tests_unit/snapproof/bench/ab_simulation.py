"""Simulates the A/B gate on noise like that of real saves, for its unit test and docs/decisions/010.

``python -m tests_unit.snapproof.bench.ab_simulation`` prints the tables of that page.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from snapproof.bench.ab.statistics import Estimate, RatioVerdict, estimate, judge, level_per_look, looks

# Has no type information of its own.
_STATS: Any = importlib.import_module("scipy.stats")
LIMIT = 1.10
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Noise:
    """The variation of measured times about the true one, all as shares of it.

    Attributes:
        base_ms: the true time of A.
        drift: standard deviation of the host's speed, of which 0.9 stay from save to save.
        save: standard deviation of each save for itself.
        process: standard deviation of what one process differs from another of the same executable.
        outliers: share of saves that take longer by half on average.
        unit_ms: times are told in whole ones of it.
    """

    base_ms: float
    drift: float
    save: float
    process: float
    outliers: float
    unit_ms: float


NOISES: Mapping[str, Noise] = {
    "quiet host": Noise(400, 0.02, 0.015, 0.01, 0.02, 1.0),
    "busy host": Noise(400, 0.10, 0.05, 0.02, 0.10, 1.0),
    "microseconds of a stun": Noise(3, 0.05, 0.10, 0.03, 0.10, 0.001),
    "3 ms in whole ms": Noise(3, 0.05, 0.10, 0.03, 0.10, 1.0),
}

Method = Callable[[Sequence[float], float], Estimate]


def student(log_ratios: Sequence[float], level: float) -> Estimate:
    """Return the mean and Student's interval."""
    values = np.asarray(log_ratios)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = float(_STATS.t.ppf((1 + level) / 2, len(values) - 1)) * error
    mean = float(values.mean())
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), level, len(values))


def bootstrap(log_ratios: Sequence[float], level: float) -> Estimate:
    """Return the median and its bootstrapped percentiles."""
    values = np.asarray(log_ratios)
    drawn = np.random.default_rng(1).integers(0, len(values), (1000, len(values)))
    medians = np.median(values[drawn], axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(math.exp(np.median(values)), math.exp(low), math.exp(high), level, len(values))


METHODS: Mapping[str, Method] = {
    "Hodges-Lehmann": estimate,
    "Student": student,
    "bootstrapped median": bootstrap,
}


def measured_pairs(noise: Noise, ratio: float, number: int, random: np.random.Generator) -> list[float]:
    """Return logarithms of B/A for a number of pairs, each a save of A and one of B in balanced random order.

    Args:
        noise: what is added.
        ratio: the true one.
        number: of pairs.
        random: where the noise comes from.
    """
    saves = 2 * number
    heads = random.integers(0, 2, -(-number // 2))
    first = np.stack([heads, 1 - heads], axis=1).ravel()[:number]
    is_b = np.stack([first, 1 - first], axis=1).ravel()
    pair = np.repeat(np.arange(number), 2)
    shared = _drift(noise.drift, saves, random) + random.normal(0, noise.process, saves)
    late = (random.random(saves) < noise.outliers) * random.exponential(0.5, saves)
    factor = np.exp(shared + random.normal(0, noise.save, saves)) + late
    times = noise.base_ms * np.where(is_b, ratio, 1.0) * factor
    times = np.maximum(np.round(times / noise.unit_ms), 1) * noise.unit_ms
    return [float(value) for value in np.bincount(pair, np.where(is_b, 1, -1) * np.log(times), number)]


def _drift(deviation: float, number: int, random: np.random.Generator) -> np.ndarray:
    """Return an autoregressive process: 0.9 of each value is in the next."""
    values = np.empty(number)
    values[0] = random.normal(0, deviation)
    for at, step in enumerate(random.normal(0, deviation * math.sqrt(1 - 0.9**2), number - 1), 1):
        values[at] = 0.9 * values[at - 1] + step
    return values


def gate(
    log_ratios: Sequence[float], plan: Sequence[int], method: Method = estimate
) -> tuple[RatioVerdict, int]:
    """Return the verdict of a gate that looks after these numbers of pairs, and the number at the verdict."""
    level = level_per_look(CONFIDENCE, len(plan))
    verdict, number = RatioVerdict.UNDECIDED, 0
    for number in plan:
        verdict = judge(method(log_ratios[:number], level), LIMIT)
        if verdict is not RatioVerdict.UNDECIDED:
            break
    return verdict, number


def simulated(
    noise: Noise,
    ratio: float,
    number: int,
    plan: Sequence[int],
    method: Method = estimate,
    *,
    seed: int = 1,
) -> tuple[Counter[RatioVerdict], float]:
    """Return the verdicts of a number of gates, and the mean number of pairs."""
    random = np.random.default_rng(seed)
    found: Counter[RatioVerdict] = Counter()
    pairs = 0
    for _ in range(number):
        logs = measured_pairs(noise, ratio, plan[-1], random)
        verdict, taken = gate(logs, plan, method)
        found[verdict] += 1
        pairs += taken
    return found, pairs / number


def _table(first: int, last: int, number: int) -> None:
    plan = looks(first, last)
    print(f"looks after {', '.join(map(str, plan))} pairs; {number} gates each; allowed: {LIMIT}")
    for name, noise in NOISES.items():
        for ratio in (0.8, 1.0, 1.05, LIMIT, 1.2):
            for title, method in METHODS.items():
                found, pairs = simulated(noise, ratio, number, plan, method)
                counts = "  ".join(
                    f"{100 * found[verdict] / number:5.1f} % {verdict.value}" for verdict in RatioVerdict
                )
                print(f"{name:24} B/A {ratio:4.2f}  {title:20} {counts}  {pairs:5.1f} pairs", flush=True)


if __name__ == "__main__":
    _table(10, 40, 2000)
