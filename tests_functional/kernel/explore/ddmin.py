"""Leaves out steps of a failing list while it still fails, within a budget of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable


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
