"""Reduces a failing list of steps to a short one that fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests_functional.explore.steps import GuestChoice, Step, StepList
from tests_functional.kernel.explore.ddmin import Budget, Reduced, reduce_failing

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
    for guest in _plainer(steps.guest):
        tried = replace(steps, guest=guest(steps.guest))
        if tried.guest != steps.guest and budget.fails(tried):
            steps = tried
    return steps


def _plainer(guest: GuestChoice) -> Iterator[Callable[[GuestChoice], GuestChoice]]:
    for name in ("machine", "ram", "vcpus", "pattern"):
        plain = getattr(_SIMPLEST, name)
        yield lambda one, name=name, plain=plain: replace(one, **{name: plain})  # type: ignore[misc]
    # Mostly none is needed, and then the others are not tried.
    yield lambda one: replace(one, devices=())
    for device in guest.devices:
        yield lambda one, device=device: replace(  # type: ignore[misc]
            one, devices=tuple(name for name in one.devices if name != device)
        )


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
