"""Reduces a failing list of memory operations to a short one with plain arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Callable

from .ddmin import Budget, Reduced, reduce_failing
from .memory import KINDS
from .steps import MemoryList, Step

# For each argument the values to try, the plainest last.
_PLAINER: dict[str, tuple[Any, ...]] = {
    "first": (0,),
    "count": (1,),
    "value": (1,),
    "pattern": ("zeros", "same"),
    "way": ("store",),
    "mode": (2,),
    "stays": (False,),
    "wp": (False,),
    "protect": (False,),
    "write": (False,),
    "access": ("none",),
    "to": (0,),
}


def reduce_list(
    steps: MemoryList, fails: Callable[[MemoryList], bool], may_go_on: Callable[[int], bool], again: int = 3
) -> Reduced[MemoryList]:
    """Return a list as short and plain as can be found that fails as `steps` does; see `reduce_failing`."""
    return reduce_failing(steps, fails, may_go_on, _plainest, again)


def _plainest(best: MemoryList, budget: Budget) -> MemoryList:
    """Return the list with a monitor and arguments as plain as fail as well."""
    for name in asdict(best.monitor):
        if getattr(best.monitor, name):
            tried = replace(best, monitor=replace(best.monitor, **{name: False}))
            best = tried if budget.fails(tried) else best
    for at in range(len(best.steps)):
        for given in _plainer(best.steps[at]):
            tried = _changed(best, at, given)
            if tried != best and budget.fails(tried):
                best = tried
    return best


def _plainer(step: Step) -> Iterator[dict[str, Any]]:
    """Yield arguments to try in place of a step's, plainest last; first of all its whole memory."""
    if "first" in step.arguments:
        yield {"first": 0, "count": KINDS[step.arguments["on"]].pages}
    for name, values in _PLAINER.items():
        if name in step.arguments:
            yield from ({name: value} for value in values)


def _changed(steps: MemoryList, at: int, given: dict[str, Any]) -> MemoryList:
    step = steps.steps[at]
    changed = Step(step.kind, {**step.arguments, **given})
    return steps.with_steps((*steps.steps[:at], changed, *steps.steps[at + 1 :]))
