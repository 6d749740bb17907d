"""Reduces a failing list of steps to a short one that fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests_functional.explore.steps import GuestChoice, Step, StepList
from tests_functional.kernel.explore.ddmin import Budget, Reduced, fewest, reduce_failing

Fails = Callable[[StepList], bool]
"""Runs a list and returns whether it fails in the same way."""

_SIMPLEST = GuestChoice()


def reduce_steps(
    steps: StepList, fails: Fails, may_go_on: Callable[[int], bool], again: int = 3
) -> Reduced[StepList]:
    """Return a list as short and plain as can be found that fails as `steps` does; see `reduce_failing`."""
    return reduce_failing(steps, fails, may_go_on, _simplest, again)


def _simplest(steps: StepList, budget: Budget) -> StepList:
    return _simplest_arguments(_simplest_guest(steps, budget), budget)


def _simplest_guest(steps: StepList, budget: Budget) -> StepList:
    """Return the list with as plain a guest as fails as well."""
    for name in ("machine", "ram", "vcpus", "pattern"):
        plain = replace(steps.guest, **{name: getattr(_SIMPLEST, name)})
        tried = replace(steps, guest=plain)
        if tried.guest != steps.guest and budget.fails(tried):
            steps = tried
    found: _Devices = fewest(_Devices(steps), _DeviceBudget(budget))
    return found.list


@dataclass(frozen=True)
class _Devices:
    """Has ddmin leave out devices of a list's guest in place of steps."""

    list: StepList

    @property
    def steps(self) -> tuple[str, ...]:
        return self.list.guest.devices

    def with_steps(self, devices: Sequence[str]) -> _Devices:
        return _Devices(replace(self.list, guest=replace(self.list.guest, devices=tuple(devices))))


class _DeviceBudget(Budget):
    """Runs lists of another budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    @property
    def spent(self) -> bool:
        return self._budget.spent

    def fails(self, steps: _Devices) -> bool:
        return self._budget.fails(steps.list)


def _simplest_arguments(steps: StepList, budget: Budget) -> StepList:
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
