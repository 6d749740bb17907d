"""Contract: a planted fault counts as seen only by the right checks with the right codes, and by no other."""

from __future__ import annotations

import pytest

from harness.codes import Code
from tests_functional.in_flight.disks import QUEUE
from tests_functional.in_flight.kinds import STREAM_KINDS
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.planted import FAULTS, PLANTED, judge_seen
from tests_functional.in_flight.planted_ids import ID_FAULTS
from tests_unit.support.scenario_values import codes
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_LOST = ("stream", Code.IN_FLIGHT_LOST)


def _checks(*found: tuple[str, Code]) -> list[CheckResult]:
    return [
        judged("good", "Claim.", []),
        *(judged(name, "Claim.", [Problem(code, "Wrong.")]) for name, code in found),
    ]


@pytest.mark.parametrize(
    ("found", "seen"),
    [
        ([_LOST], True),
        ([], False),
        ([_LOST, ("other", Code.IN_FLIGHT_LOST)], False),
        ([_LOST, ("stream", Code.IN_FLIGHT_TWICE)], False),
        ([("stream", Code.IN_FLIGHT_TWICE)], False),
        ([("other", Code.IN_FLIGHT_LOST)], False),
    ],
)
def test_only_the_right_check_and_code_count(found: list[tuple[str, Code]], seen: bool) -> None:
    """Nothing less, and nothing more."""
    result = judge_seen("fault", {_LOST}, _checks(*found))
    assert result.name == "planted-fault"
    assert codes(result) == ([] if seen else [Code.IN_FLIGHT_UNSEEN])


def test_every_expected_check_must_see_it() -> None:
    """One of two is not enough."""
    other = ("other", Code.IN_FLIGHT_LOST)
    assert codes(judge_seen("fault", {_LOST, other}, _checks(other, _LOST))) == []
    assert codes(judge_seen("fault", {_LOST, other}, _checks(_LOST))) == [Code.IN_FLIGHT_UNSEEN]


def test_the_disk_writes_a_block_again_that_was_written_before_t0() -> None:
    """A read that is carried out again leaves nothing in the log of writes."""
    counts = STREAM_KINDS["virtio-blk"].counts
    numbers = Numbers.of(1, counts)
    sent = next(fault.sent for fault in FAULTS["virtio-blk"] if fault.code is Code.IN_FLIGHT_TWICE)
    assert sent is not None
    again, *rest = sent(numbers)
    assert again in numbers.consumed
    assert list(numbers.restored) == rest
    assert QUEUE.writes(again)


def test_each_code_of_generation_ids_is_planted_alone() -> None:
    """A fault with two codes does not show that each can be seen by itself."""
    alone = [{code for _, code in fault.expected} for fault in ID_FAULTS.values()]
    for code in (Code.VMGENID_FILE, Code.VMGENID_SOURCE, Code.VMGENID_STALE, Code.VMGENID_SAME):
        assert {code} in alone


def test_each_fault_is_planted_by_one_test() -> None:
    """A fault that no test plants is never seen."""
    assert sorted(name for streams in PLANTED.values() for name in streams) == sorted(FAULTS)
