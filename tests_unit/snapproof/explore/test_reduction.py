"""Contract: a reduced list fails as the first one did, has no step too many, and the budget is kept."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from snapproof.explore.reduction import reduce_steps
from tests_functional.explore.steps import GuestChoice, Step, StepList

_NAMES = tuple("abcdefghij")
_GUEST = GuestChoice(machine="another", ram="memfd", vcpus=2, pattern="hot", devices=("rng", "vga"))


def _list(names: list[str]) -> StepList:
    return StepList(_GUEST, tuple(Step(name) for name in names))


def _names(steps: StepList) -> list[str]:
    return [step.kind for step in steps.steps]


def _in_order(wanted: list[str]) -> Callable[[StepList], bool]:
    """Return a predicate that holds for lists that have these steps in this order."""

    def fails(steps: StepList) -> bool:
        found = iter(_names(steps))
        return all(name in found for name in wanted)

    return fails


@settings(deadline=None)
@given(st.lists(st.sampled_from(_NAMES), max_size=14), st.data())
def test_only_what_is_needed_is_left(names: list[str], data: st.DataObject) -> None:
    """Of any list that fails because of some of its steps, exactly those are left, on the plainest guest."""
    kept = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    needed = [name for name, keep in zip(names, kept, strict=True) if keep]
    reduced = reduce_steps(_list(names), _in_order(needed), lambda _runs: True)
    assert _names(reduced.steps) == needed
    assert reduced.steps.guest == GuestChoice()
    assert reduced.stable


@settings(deadline=None)
@given(st.lists(st.sampled_from(_NAMES), min_size=3, max_size=14), st.integers(0, 25))
def test_the_budget_is_kept_and_the_result_fails(names: list[str], most: int) -> None:
    """However small the budget: no more runs than that, and what is returned has failed."""
    ran: list[StepList] = []
    fails = _in_order([names[0], names[-1]])

    def counting(steps: StepList) -> bool:
        ran.append(steps)
        return fails(steps)

    reduced = reduce_steps(_list(names), counting, lambda runs: runs < most)
    assert len(ran) == reduced.runs <= most
    assert fails(reduced.steps)


def test_a_list_that_fails_no_more_is_left_as_it_is() -> None:
    """A failure that does not show again cannot be reduced, and is said so."""
    steps = _list(["a", "b"])
    reduced = reduce_steps(steps, lambda _steps: False, lambda _runs: True)
    assert (reduced.steps, reduced.failed, reduced.tried, reduced.runs) == (steps, 0, 3, 3)
    assert not reduced.stable


def test_a_list_that_fails_at_times_is_tried_several_times() -> None:
    """A race that shows in seven of ten runs is reduced as far as one that always shows."""
    chance, fails = random.Random(5), _in_order(["c", "g"])
    names = list("abcdefghij")
    reduced = reduce_steps(
        _list(names), lambda steps: fails(steps) and chance.random() < 0.7, lambda _runs: True, again=8
    )
    assert 0 < reduced.failed < reduced.tried == 8
    assert not reduced.stable
    assert _names(reduced.steps) == ["c", "g"]


def test_arguments_of_commands_are_left_out() -> None:
    """Of a command's arguments those stay without which it does not fail."""
    step = Step("qmp", {"command": "x", "arguments": {"needed": 1, "other": 2, "third": [3]}})

    def fails(steps: StepList) -> bool:
        return any("needed" in one.arguments.get("arguments", {}) for one in steps.steps)

    reduced = reduce_steps(StepList(GuestChoice(), (step,)), fails, lambda _runs: True)
    assert reduced.steps.steps == (Step("qmp", {"command": "x", "arguments": {"needed": 1}}),)


def test_a_device_that_is_needed_stays() -> None:
    """A guest is made plainer only as far as the list still fails."""
    steps = _list(["a"])
    reduced = reduce_steps(steps, lambda one: "vga" in one.guest.devices, lambda _runs: True)
    assert reduced.steps.guest == GuestChoice(devices=("vga",))
    assert reduced.steps.steps == ()
