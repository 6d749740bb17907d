"""The A/B gate: measures pair after pair until the interval of the ratio decides, or no pair is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.errors import UsageError
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_PASS
from snapproof.bench.ab.statistics import (
    MOST_PAIRS,
    Estimate,
    RatioVerdict,
    estimate,
    fewest_pairs,
    judge,
    level_per_look,
    looks,
    more_pairs,
    relative_spread,
)

CONFIDENCE = 0.95


@dataclass(frozen=True)
class GatePlan:
    """The limit that a gate decides about, and the numbers of pairs after which it looks.

    Attributes:
        limit: the ratio B/A up to which B is good enough.
        first: pairs before the first look.
        last: pairs at most.

    Raises:
        UsageError: no gate is possible with these numbers.
    """

    limit: float
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.first < 1:
            raise UsageError(f"--pairs {self.first} is too few; give 1 or more.")
        if self.last < self.first:
            raise UsageError(f"--max-pairs {self.last} is less than --pairs {self.first}.")
        if self.last > MOST_PAIRS:
            raise UsageError(f"--max-pairs {self.last} is too many; give {MOST_PAIRS} at most.")
        if self.first < (least := fewest_pairs(self.level)):
            raise UsageError(
                f"With {len(self.looks)} looks after {self.first} to {self.last} pairs the first look has "
                f"too few pairs for an interval; give --pairs {least} or more."
            )

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of pairs after which the gate looks."""
        return looks(self.first, self.last)

    @property
    def level(self) -> float:
        """The confidence of each look, such that all looks together have at least CONFIDENCE."""
        return level_per_look(CONFIDENCE, len(self.looks))


@dataclass(frozen=True)
class GateResult:
    """The result of a gate.

    Attributes:
        plan: what it was to decide.
        a: figures of A, one for each pair.
        b: figures of B, likewise.
        found: the ratio at the last look.
        verdict: the verdict on it.
    """

    plan: GatePlan
    a: tuple[float, ...]
    b: tuple[float, ...]
    found: Estimate
    verdict: RatioVerdict

    @property
    def exit_code(self) -> int:
        """0 better or same, 1 worse, 2 undecided."""
        codes = {RatioVerdict.WORSE: EXIT_FAIL, RatioVerdict.UNDECIDED: EXIT_ERROR}
        return codes.get(self.verdict, EXIT_PASS)

    @property
    def ratio_of_means(self) -> float:
        """Total of B over total of A. The verdict is on the typical pair instead."""
        return sum(self.b) / sum(self.a)

    def warning(self) -> str:
        """Return a sentence if single saves of B were much slower, which no verdict shows; else ""."""
        good = self.verdict in (RatioVerdict.SAME, RatioVerdict.BETTER)
        if not good or self.ratio_of_means <= self.plan.limit:
            return ""
        return (
            f"B took {100 * (self.ratio_of_means - 1):.1f} % more than A in all: single saves were much "
            "slower, which a verdict on the typical pair does not weigh. Look at the figures."
        )

    def sentence(self) -> str:
        """Return the verdict as a sentence."""
        allowed = f"{100 * (self.plan.limit - 1):g} %"
        match self.verdict:
            case RatioVerdict.WORSE:
                return f"B is worse than A by more than the {allowed} that are allowed."
            case RatioVerdict.BETTER:
                return f"B is better than A, by more than the {allowed} that it may be worse."
            case RatioVerdict.SAME:
                return f"B is not worse than A by more than the {allowed} that are allowed."
        more = more_pairs(self.found, self.plan.limit)
        if more is None:
            return (
                f"It cannot be said whether B is worse by more than {allowed}: the ratio is so near to that "
                f"limit, or the figures vary so much, that not even {MOST_PAIRS} pairs are likely to decide."
            )
        return (
            f"It cannot be said yet whether B is worse by more than {allowed}; {more} more pairs "
            f"(--max-pairs {self.found.pairs + more}) may decide."
        )

    def to_json(self) -> dict[str, Any]:
        """Return its form in ab.json."""
        found = self.found
        return {
            "verdict": self.verdict.value,
            "sentence": self.sentence(),
            "exit_code": self.exit_code,
            "ratio": found.ratio,
            "interval": [found.low, found.high],
            "level": found.level,
            "pairs": found.pairs,
            "limit": self.plan.limit,
            "ratio_of_means": self.ratio_of_means,
            "a": list(self.a),
            "b": list(self.b),
            "a_spread": relative_spread(self.a),
            "b_spread": relative_spread(self.b),
        }


def run_gate(
    plan: GatePlan,
    measure: Callable[[int], tuple[float, float]],
    told: Callable[[str], None] = lambda _: None,
) -> GateResult:
    """Measure pairs until a look decides, or the last pair has been taken.

    Args:
        plan: what to decide.
        measure: takes the number of a pair, from 1, and returns the figures of A and B, both above 0.
        told: called with a sentence about each look.
    """
    a: list[float] = []
    b: list[float] = []
    for look in plan.looks:
        while len(a) < look:
            figure_a, figure_b = measure(len(a) + 1)
            a.append(figure_a)
            b.append(figure_b)
        found = estimate([math.log(y / x) for x, y in zip(a, b, strict=True)], plan.level)
        verdict = judge(found, plan.limit)
        told(f"After {look} pairs B/A is {ratio_text(found)}: {verdict.value}.")
        if verdict is not RatioVerdict.UNDECIDED:
            break
    return GateResult(plan, tuple(a), tuple(b), found, verdict)


def ratio_text(found: Estimate) -> str:
    """Return a ratio with its interval as text."""
    return f"{found.ratio:.3f} ({found.low:.3f} to {found.high:.3f} at {100 * found.level:g} %)"


def side_text(values: tuple[float, ...], unit: str) -> str:
    """Return median and spread of one side's figures as text."""
    return f"median {median(values):,.6g} {unit}, spread {100 * relative_spread(values):.1f} %"
