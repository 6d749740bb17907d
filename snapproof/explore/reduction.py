"""Reduces a failing list of steps to a short one that fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests_functional.explore.steps import GuestChoice, Step, StepList

Fails = Callable[[StepList], bool]
"""Runs a list and returns whether it fails in the same way."""

_SIMPLEST = GuestChoice()


@dataclass(frozen=True)
class Reduced:
    """The result of a reduction.

    Attributes:
        steps: the shortest list that failed in the same way.
        runs: how many lists were run for it.
        failed: how often it failed when it was run again as it was at first.
        tried: how often it was run again so.
    """

    steps: StepList
    runs: int
    failed: int
    tried: int

    @property
    def stable(self) -> bool:
        """Whether it failed each time."""
        return self.failed == self.tried


class _Budget:
    """Counts runs, and tries a list several times if the failure shows at times only."""

    def __init__(self, fails: Fails, may_go_on: Callable[[int], bool]) -> None:
        self._fails = fails
        self._may_go_on = may_go_on
        self.runs = 0
        self.times = 1

    @property
    def spent(self) -> bool:
        return not self._may_go_on(self.runs)

    def fails(self, steps: StepList) -> bool:
        """Return whether a list fails in at least one of some runs; False once the budget is spent."""
        return any(self.once(steps) for _ in range(self.times))

    def once(self, steps: StepList) -> bool:
        if self.spent:
            return False
        self.runs += 1
        return self._fails(steps)


def reduce_steps(steps: StepList, fails: Fails, may_go_on: Callable[[int], bool], again: int = 3) -> Reduced:
    """Return a list as short as can be found that fails as `steps` does.

    Args:
        steps: a list that has failed.
        fails: runs a list.
        may_go_on: given the number of runs so far, returns whether there may be another one.
        again: how often the list is run again at first, to see whether it is stable.
    """
    budget = _Budget(fails, may_go_on)
    seen = [budget.once(steps) for _ in range(again)]
    failed = sum(seen)
    if failed == 0:
        return Reduced(steps, budget.runs, 0, again)
    # A list that fails in 1 of 3 runs is found in 4 with a chance of 80 %.
    budget.times = 1 if failed == again else 4
    best = steps.with_steps(_fewest(steps, budget))
    best = _simplest_guest(best, budget)
    best = _simplest_arguments(best, budget)
    best = best.with_steps(_fewest(best, budget))
    return Reduced(best, budget.runs, failed, again)


def _fewest(steps: StepList, budget: _Budget) -> tuple[Step, ...]:
    """Return steps of which none can be left out (ddmin: Zeller and Hildebrandt, 2002)."""
    best, size = steps.steps, max(1, len(steps.steps) // 2)
    while best and not budget.spent:
        shorter = next((one for one in _without(best, size) if budget.fails(steps.with_steps(one))), None)
        if shorter is not None:
            best, size = shorter, min(size, max(1, len(shorter)))
        elif size == 1:
            break
        else:
            size = max(1, size // 2)
    return best


def _without(steps: Sequence[Step], size: int) -> Iterator[tuple[Step, ...]]:
    """Yield the steps without each piece of a size; the last pieces first, which are seldom the cause."""
    for start in reversed(range(0, len(steps), size)):
        yield (*steps[:start], *steps[start + size :])


def _simplest_guest(steps: StepList, budget: _Budget) -> StepList:
    """Return the list with as plain a guest as fails as well."""
    for guest in _plainer(steps.guest):
        tried = replace(steps, guest=guest(steps.guest))
        if tried.guest != steps.guest and budget.fails(tried):
            steps = tried
    return steps


def _plainer(guest: GuestChoice) -> Iterator[Callable[[GuestChoice], GuestChoice]]:
    for name in ("machine", "ram", "vcpus", "pattern"):
        plain = getattr(_SIMPLEST, name)
        yield lambda one, name=name, plain=plain: replace(one, **{name: plain})  # type: ignore[misc]
    for device in guest.devices:
        yield lambda one, device=device: replace(  # type: ignore[misc]
            one, devices=tuple(name for name in one.devices if name != device)
        )


def _simplest_arguments(steps: StepList, budget: _Budget) -> StepList:
    """Return the list with as few arguments of its QMP commands as fail as well."""
    for at, step in enumerate(steps.steps):
        given = step.arguments.get("arguments")
        for name in tuple(given) if isinstance(given, dict) else ():
            fewer: dict[str, Any] = {
                key: value for key, value in steps.steps[at].arguments["arguments"].items() if key != name
            }
            changed = Step(step.kind, {**step.arguments, "arguments": fewer})
            tried = steps.with_steps((*steps.steps[:at], changed, *steps.steps[at + 1 :]))
            if budget.fails(tried):
                steps = tried
    return steps
