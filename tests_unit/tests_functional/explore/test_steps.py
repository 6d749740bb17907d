"""Contract: a list of steps is data, comes back from JSON as it was, and other forms are refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from tests_functional.explore.guests import DEVICES, MACHINES, RAM_KINDS
from tests_functional.explore.menu import KINDS
from tests_functional.explore.steps import GuestChoice, Step, StepList

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
_STEPS = st.builds(
    Step, st.sampled_from(sorted(KINDS)), st.dictionaries(st.text(max_size=5), _VALUES, max_size=3)
)
GUESTS = st.builds(
    GuestChoice,
    machine=st.sampled_from(MACHINES),
    accel=st.sampled_from(("kvm", "tcg")),
    ram=st.sampled_from(sorted(RAM_KINDS)),
    vcpus=st.integers(1, 4),
    devices=st.lists(st.sampled_from(sorted(DEVICES)), unique=True).map(tuple),
)
LISTS = st.builds(StepList, GUESTS, st.lists(_STEPS, max_size=6).map(tuple))


@settings(deadline=None)
@given(LISTS)
def test_json_form(steps: StepList) -> None:
    """What is written can be read, and is the same list."""
    assert StepList.from_json(json.loads(json.dumps(steps.to_json()))) == steps


@pytest.mark.parametrize("change", [{"version": 2}, {"guest": {}}, {"steps": [{}]}, {"guest": {"x": 1}}])
def test_other_forms_are_refused(change: dict[str, object]) -> None:
    """A file of another version, or of another program, is the user's mistake and no traceback."""
    data = {**StepList(GuestChoice(), ()).to_json(), **change}
    with pytest.raises(UsageError):
        StepList.from_json(data)


def test_every_kind_guest_and_device_has_a_reason() -> None:
    """A table without reasons would grow without any."""
    assert all(kind.reason for kind in KINDS.values())
    assert all(choice.reason for choice in (*RAM_KINDS.values(), *DEVICES.values()))
    assert all(kind.weight > 0 for kind in KINDS.values())
