"""Contract: what is lost, doubled, out of order or of after T0 turns the check of a stream red."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.codes import Code
from harness.errors import DeadlineExpired, SubjectFailed
from tests_functional.in_flight.judge import Expected, judge_lost_source, judge_stream
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_unit.support.scenario_values import codes

_EXPECTED = Expected([3, 4, 5, 9], consumed=[1, 2], of_source=[6, 7])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([3, 4, 5, 9], []),
        ([3, 4, 9], [Code.IN_FLIGHT_LOST]),
        ([], [Code.IN_FLIGHT_LOST]),
        ([3, 4, 4, 5, 9], [Code.IN_FLIGHT_TWICE]),
        ([2, 3, 4, 5, 9], [Code.IN_FLIGHT_TWICE]),
        ([3, 5, 4, 9], [Code.IN_FLIGHT_DISORDER]),
        ([3, 4, 5, 6, 9], [Code.IN_FLIGHT_AFTER_T0]),
        ([3, 4, 5, 9, 77], [Code.IN_FLIGHT_UNKNOWN]),
        ([3, 4, -6, 9], [Code.IN_FLIGHT_LOST, Code.IN_FLIGHT_UNKNOWN]),
        (
            [4, 3, 3, 7],
            [Code.IN_FLIGHT_LOST, Code.IN_FLIGHT_TWICE, Code.IN_FLIGHT_AFTER_T0, Code.IN_FLIGHT_DISORDER],
        ),
    ],
)
def test_each_item_once_and_in_order(found: Sequence[int], expected: Sequence[Code]) -> None:
    """Each way to be wrong has its code."""
    assert codes(judge_stream("restored-in-flight", found, _EXPECTED)) == expected


def test_order_that_is_not_promised() -> None:
    """Requests of a disk may end in any order, but each once."""
    free = Expected([3, 4, 5], consumed=[], ordered=False)
    assert codes(judge_stream("x", [5, 3, 4], free)) == []
    assert codes(judge_stream("x", [5, 3, 3, 4], free)) == [Code.IN_FLIGHT_TWICE]


def test_network_may_lose_packets() -> None:
    """What a network may lose is a fact; what it doubles is wrong."""
    lossy = Expected([3, 4, 9], consumed=[], may_lose=[3, 4])
    check = judge_stream("x", [9], lossy)
    assert codes(check) == []
    assert check.facts["items lost"] == 2
    assert codes(judge_stream("x", [4, 4, 9], lossy)) == [Code.IN_FLIGHT_TWICE]
    assert codes(judge_stream("x", [3, 4], lossy)) == [Code.IN_FLIGHT_LOST]


def test_device_that_qemu_has_given_up() -> None:
    """It explains what does not arrive."""
    broken = Expected([3, 4], consumed=[], broken=["virtio-serial"])
    assert codes(judge_stream("x", [3], broken)) == [Code.IN_FLIGHT_BROKEN]
    assert codes(judge_stream("x", [3, 3], broken)) == [Code.IN_FLIGHT_BROKEN, Code.IN_FLIGHT_TWICE]


def test_stream_that_does_not_go_on() -> None:
    """An error on the way is a violation of its own."""
    check = judge_stream("x", [3, 4, 5, 9], _EXPECTED, DeadlineExpired("It did not happen within 1 s."))
    assert codes(check) == [Code.IN_FLIGHT_SILENT]


def test_no_number_occurs_twice() -> None:
    """Neither in one snapshot nor in two."""
    all_numbers = [
        number
        for snapshot in range(3)
        for part in vars(Numbers.of(snapshot, Counts(2, 3, 4))).values()
        for number in part
    ]
    assert all_numbers == list(range(3 * (2 + 3 + 4 + 4)))


def test_qemu_that_ends_in_the_save() -> None:
    """It is lost with its guest, and its last words are kept for known issues."""
    words = "QEMU ended; its last words: lsi_pre_save: Assertion `QTAILQ_EMPTY(&s->queue)' failed."
    check = judge_lost_source("x/01", SubjectFailed(words, code=Code.QEMU_ENDED))
    assert check.name == "x/01/source"
    assert codes(check) == [Code.QEMU_ENDED]
    assert check.violations[0].fields == {"qemu_said": "lsi-assertion"}
