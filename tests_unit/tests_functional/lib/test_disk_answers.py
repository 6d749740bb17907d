"""Contract: each request that a disk is told of is answered once, and rightly."""

from __future__ import annotations

from typing import cast

import pytest

from harness.deadline import Deadline
from tests_functional.lib.drivers.disk import Answer, AnsweredTwice, DiskDriver, RequestFailed, carry_out


class _Disk:
    """A disk with two requests at a time, which gives the answers in turn, and notes what it is told."""

    at_once = 2

    def __init__(self, *answers: list[Answer]) -> None:
        self._answers = list(answers)
        self.told: list[int] = []

    def tell(self, request: int) -> None:
        self.told.append(request)

    def answers(self) -> list[Answer]:
        return self._answers.pop(0) if self._answers else []


def _carry_out(disk: _Disk, *requests: int) -> None:
    carry_out(cast(DiskDriver, disk), requests, "disk", Deadline(5))


def test_requests_are_told_as_many_at_a_time_as_the_disk_can_have() -> None:
    """In any order of the answers."""
    disk = _Disk([Answer(5, 0)], [], [Answer(4, 0)], [Answer(6, 0)])
    _carry_out(disk, 4, 5, 6)
    assert disk.told == [4, 5, 6]


@pytest.mark.parametrize(
    ("answers", "request_number"),
    [
        ([[Answer(4, 0), Answer(4, 0)]], 4),
        ([[Answer(4, 0)], [Answer(4, 0), Answer(5, 0)]], 4),
        ([[Answer(3, 0)]], 3),
        ([[Answer(4, 1), Answer(4, 0)]], None),
    ],
)
def test_an_answer_that_nobody_waits_for(answers: list[list[Answer]], request_number: int | None) -> None:
    """The disk carried out a request twice, or one that it was not told of; a failure is told first."""
    if request_number is None:
        with pytest.raises(RequestFailed, match="status 0x1"):
            _carry_out(_Disk(*answers), 4, 5)
    else:
        with pytest.raises(AnsweredTwice, match=f"request {request_number} again"):
            _carry_out(_Disk(*answers), 4, 5)
