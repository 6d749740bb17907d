"""Contract: a leg skips what its QEMU cannot do before anything is booted, saying why, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from snapproof.runs.matrix import Leg
from tests_functional.lib.profile_row import ProfileRow
from tests_unit.support.scenario_values import stack

_NEEDS = ProfileRow("t.snapshot", "a.py:A.test", "reason")
_NEEDS_TWO = ProfileRow("t.mapped", "a.py:A.test", "reason", needs=("background-snapshot", "mapped-ram"))
_NEEDS_NONE = ProfileRow("t.plain", "a.py:A.test", "reason", needs=())


def _leg(folder: Path, version: str, *capabilities: str) -> Leg:
    knowing = replace(stack(folder), executable=folder / version, capabilities=capabilities)
    return Leg(version, version, folder, knowing, {"qemu": version}, (_NEEDS, _NEEDS_TWO, _NEEDS_NONE))


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        (("events",), ["background-snapshot", "background-snapshot", ""]),
        (("background-snapshot",), ["", "mapped-ram", ""]),
        (("background-snapshot", "mapped-ram"), ["", "", ""]),
        ((), ["", "", ""]),
    ],
)
def test_without(tmp_path: Path, capabilities: tuple[str, ...], missing: list[str]) -> None:
    """The first thing that is missing; a QEMU that did not say what it knows is given every test."""
    leg = _leg(tmp_path, "10.0.13", *capabilities)
    assert [leg.without(row) for row in leg.rows] == missing


def test_newest_last(tmp_path: Path) -> None:
    """A test that takes one newer QEMU takes the newest, whatever the order on the command line."""
    legs = [_leg(tmp_path, version) for version in ("11.1.3", "7.2.22", "10.0.13")]
    oldest = legs[1]
    assert oldest.newer(legs).index("10.0.13") < oldest.newer(legs).index("11.1.3")
    assert legs[0].newer(legs) == "{}"
