"""Contract: state of after T0, lost state, and a guest that cannot change it turn their checks red."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from harness.codes import Code
from tests_functional.beside_ram.judge import judge_goes_on, judge_restored_state, judge_source_state
from tests_functional.beside_ram.kinds import PLACES, ROUNDS_AFTER, STATE_KINDS
from tests_unit.support.scenario_values import codes, sentences

_NAME = "storage-keys"
_KIND = STATE_KINDS[_NAME]
_BEFORE = 8


def _round(number: int, *changed: tuple[int, int]) -> list[int]:
    """What a round stores, with other values at some places."""
    values = [_KIND.value(number, index) for index in range(PLACES)]
    for index, value in changed:
        values[index] = value
    return values


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (_round(_BEFORE), []),
        (_round(_BEFORE + 1), [Code.BESIDE_RAM_NEWER]),
        (_round(_BEFORE + ROUNDS_AFTER), [Code.BESIDE_RAM_NEWER]),
        (_round(_BEFORE, (5, _KIND.value(_BEFORE + 2, 5))), [Code.BESIDE_RAM_NEWER]),
        (_round(_BEFORE, (5, 0)), [Code.BESIDE_RAM_LOST]),
        (_round(_BEFORE - 1), [Code.BESIDE_RAM_LOST]),
        (
            _round(_BEFORE, (0, 0), (1, _KIND.value(_BEFORE + 1, 1))),
            [Code.BESIDE_RAM_NEWER, Code.BESIDE_RAM_LOST],
        ),
    ],
)
def test_restored_state(found: Sequence[int], expected: Sequence[Code]) -> None:
    """Each place must have the round of before T0."""
    assert codes(judge_restored_state(_NAME, _KIND, found, _BEFORE)) == expected


def test_wrong_places_are_named() -> None:
    """The sentence has their number and the first of them, and the code says which state it is."""
    result = judge_restored_state(_NAME, _KIND, _round(_BEFORE + 1), _BEFORE)
    assert sentences(result)[0].startswith(
        "64 of 64 storage keys are what the guest stored after T0: number 0 is "
    )
    assert result.violations[0].fields == {"state": _NAME}
    assert result.facts == {"places": PLACES, "newer than T0": PLACES, "lost": 0}


def test_source_state() -> None:
    """The source must have what it stored last, and be able to store."""
    assert codes(judge_source_state(_NAME, _KIND, _round(9), 9)) == []
    assert codes(judge_source_state(_NAME, _KIND, _round(9, (3, 0)), 9)) == [Code.BESIDE_RAM_SOURCE]
    assert codes(judge_source_state(_NAME, _KIND, _round(9), 9, "it refuses.")) == [Code.BESIDE_RAM_SOURCE]


def test_restored_guest_goes_on() -> None:
    """What it stores must be there."""
    assert codes(judge_goes_on(_NAME, _KIND, _round(9), 9)) == []
    assert codes(judge_goes_on(_NAME, _KIND, _round(8), 9)) == [Code.BESIDE_RAM_STUCK]


@pytest.mark.parametrize("name", STATE_KINDS)
def test_rounds_are_told_apart(name: str) -> None:
    """At each place all rounds from the one of before T0 on differ, from each other and from nothing."""
    kind = STATE_KINDS[name]
    for index in range(PLACES):
        for before in (0, 8, 16):
            values = [kind.value(before + number, index) for number in range(ROUNDS_AFTER + 1)]
            assert len({0, *values}) == ROUNDS_AFTER + 2


def test_places_are_apart() -> None:
    """Addresses are in the last 4 MiB of RAM, and in pages of their own."""
    places = STATE_KINDS["allocation-tags"].places(1 << 30, 128 << 20)
    assert (places[0], len(places)) == ((1 << 30) + (124 << 20), PLACES)
    assert {later - earlier for earlier, later in pairwise(places)} == {64 << 10}
    assert STATE_KINDS["hash-table"].places(0, 128 << 20) == tuple(range(PLACES))
