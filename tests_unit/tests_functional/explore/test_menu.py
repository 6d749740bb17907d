"""Contract: a list of steps from a file is checked before a guest is booted for it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from harness.errors import UsageError
from tests_functional.explore.menu import KINDS, Drawing, readable_list
from tests_functional.explore.steps import GuestChoice, Step, StepList
from tests_unit.tests_functional.explore.test_commands import _SCHEMA

_GUEST = StepList(GuestChoice(), ()).to_json()["guest"]


def _data(*steps: dict[str, Any], **guest: Any) -> dict[str, Any]:
    return {"version": 1, "guest": {**_GUEST, **guest}, "steps": list(steps)}


def _step(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"kind": kind, "arguments": arguments}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_can_be_read_again(kind: str) -> None:
    """Every list of a corpus was drawn; one that is refused would be lost."""
    for number in range(20):
        drawn = Step(kind, KINDS[kind].draw(Drawing(_SCHEMA, random.Random(number))))
        steps = StepList(GuestChoice(), (drawn,))
        assert readable_list(steps.to_json()) == steps


def test_arguments_that_have_a_default_may_be_missing() -> None:
    """People write such lists."""
    assert readable_list(_data(_step("begin"), _step("reset"))).steps


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no JSON object"),
        (_data(machine="zz"), "'machine' is 'zz', and must be one of pc"),
        (_data(accel="xen"), "'accel'"),
        (_data(ram="zz"), "'ram'"),
        (_data(ram_mib="a"), "of the type int"),
        (_data(ram_mib=8), "from 32 to 1024"),
        (_data(vcpus=9), "'vcpus'"),
        (_data(pattern="zz"), "'pattern'"),
        (_data(devices=["zz"]), "'devices'"),
        (_data(_step("nope")), "Step 1 of the list, 'nope', cannot be taken: there is no such kind"),
        (_data(_step("stop"), _step("sink")), "Step 2 .* its argument 'speed' is missing"),
        (_data(_step("sink", speed="zz")), "'speed' is 'zz'"),
        (_data(_step("stop", now=True)), "takes no argument 'now'"),
        (_data(_step("wait", seconds="1")), "of the type float"),
        (_data(_step("qmp", command="stop", arguments=[])), "of the type dict"),
    ],
)
def test_a_list_that_cannot_be_taken_is_refused(data: Any, words: str) -> None:
    """With the step and the value that is wrong, and not by an error of ours when its guest runs."""
    with pytest.raises(UsageError, match=words):
        readable_list(data)
