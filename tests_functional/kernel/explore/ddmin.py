"""Reduces a failing list to a short one that fails in the same way, within a budget of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Generic, TypeVar

_MOST_PAIRS = 5

Steps = TypeVar("Steps")
"""A list with `steps` and `with_steps`."""


class Budget:
    """Counts runs, and tries a list several times if the failure shows at times only.

    Attributes:
        runs: how many lists were run.
        times: how often a list is run for one decision.
    """

    def __init__(self, fails: Callable[[Any], bool], may_go_on: Callable[[int], bool]) -> None:
        """Describe it.

        Args:
            fails: runs a list and returns whether it fails in the same way.
            may_go_on: given the number of runs so far, returns whether there may be another one.
        """
        self._fails = fails
        self._may_go_on = may_go_on
        self.runs = 0
        self.times = 1

    @property
    def spent(self) -> bool:
        """Whether there may be no further run."""
        return not self._may_go_on(self.runs)

    def fails(self, steps: Any) -> bool:
        """Return whether a list fails in at least one of some runs; False once the budget is spent."""
        return any(self.once(steps) for _ in range(self.times))

    def once(self, steps: Any) -> bool:
        """Return whether a list fails in one run; False once the budget is spent."""
        if self.spent:
            return False
        self.runs += 1
        return self._fails(steps)

    def settle(self, steps: Any, again: int) -> int:
        """Run a list some times, decide how often to run others, and return how often it failed.

        A list that fails in 1 of 3 runs is found in 4 with a chance of 80 %.
        """
        failed = sum(self.once(steps) for _ in range(again))
        self.times = 1 if failed == again else 4
        return failed


@dataclass(frozen=True)
class Reduced(Generic[Steps]):
    """The result of a reduction.

    Attributes:
        steps: the shortest list that failed in the same way.
        runs: how many lists were run for it.
        failed: how often it failed when it was run again as it was at first.
        tried: how often it was run again so.
    """

    steps: Steps
    runs: int
    failed: int
    tried: int

    @property
    def stable(self) -> bool:
        """Whether it failed each time."""
        return self.failed == self.tried


def reduce_failing(
    steps: Steps,
    fails: Callable[[Steps], bool],
    may_go_on: Callable[[int], bool],
    plainest: Callable[[Steps, Budget], Steps],
    again: int = 3,
) -> Reduced[Steps]:
    """Return a list as short as can be found that fails as `steps` does.

    Args:
        steps: a list that has failed.
        fails: runs a list and returns whether it fails in the same way.
        may_go_on: given the number of runs so far, returns whether there may be another one.
        plainest: returns a list of as many steps whose other values are as plain as fail as well.
        again: how often the list is run again at first, to see whether it is stable.
    """
    budget = Budget(fails, may_go_on)
    failed = budget.settle(steps, again)
    if not failed:
        return Reduced(steps, budget.runs, 0, again)
    best: Steps = fewest(plainest(fewest(_last_ones(steps, budget), budget), budget), budget)
    return Reduced(best, budget.runs, failed, again)


def _last_ones(steps: Any, budget: Budget) -> Any:
    """Return the last few steps alone if they fail as well, which saves most of the runs; else all.

    Mostly the last step shows it, in the state that one step before it has made.
    """
    last = steps.steps[-1:]
    earlier: dict[str, Any] = {}
    for step in steps.steps[:-1]:
        # The last one of each kind; the latest kind is tried first.
        earlier.pop(step.kind, None)
        earlier[step.kind] = step
    pairs = [(one, *last) for one in reversed(earlier.values())]
    for tried in (last, *pairs[:_MOST_PAIRS], steps.steps[-3:], steps.steps[-6:]):
        if len(tried) < len(steps.steps) and budget.fails(steps.with_steps(tried)):
            return steps.with_steps(tried)
    return steps


def fewest(steps: Any, budget: Budget) -> Any:
    """Return the list with steps of which none can be left out (ddmin: Zeller and Hildebrandt, 2002).

    Args:
        steps: a list with `steps` and `with_steps`.
        budget: runs lists.
    """
    best, size = steps, max(1, len(steps.steps) // 2)
    while best.steps and not budget.spent:
        tried = (best.with_steps(one) for one in _without(best.steps, size))
        shorter = next((one for one in tried if budget.fails(one)), None)
        if shorter is not None:
            best, size = shorter, min(size, max(1, len(shorter.steps)))
        elif size == 1:
            break
        else:
            size = max(1, size // 2)
    return best


def _without(steps: Sequence[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Yield the steps without each piece of a size; the last pieces first, which are seldom the cause."""
    for start in reversed(range(0, len(steps), size)):
        yield (*steps[:start], *steps[start + size :])
