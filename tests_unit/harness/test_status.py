"""Statuses combine to the worst, and nothing-ran or all-skipped is never green."""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlineExpired
from harness.status import Status, exit_code, worst


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([], 3),
        ([Status.SKIP, Status.SKIP], 4),
        ([Status.PASS, Status.SKIP], 0),
        ([Status.DONE, Status.PASS], 0),
        ([Status.XFAIL, Status.PASS], 0),
        ([Status.MISS, Status.PASS], 2),
        ([Status.ERROR, Status.MISS], 2),
        ([Status.FAIL, Status.ERROR, Status.PASS], 1),
    ],
)
def test_exit_codes(statuses: list[Status], code: int) -> None:
    """Exit codes are those of DESIGN section 5."""
    assert exit_code(statuses) == code


def test_worst_wins() -> None:
    """FAIL > ERROR > MISS > PASS > DONE > SKIP."""
    order = [Status.FAIL, Status.ERROR, Status.MISS, Status.PASS, Status.DONE, Status.SKIP]
    assert [worst(order[start:]) for start in range(len(order))] == order
    assert worst([]) is None


def test_deadline_is_one_clock() -> None:
    """A step's deadline never outlives the whole; an expired one names what did not happen."""
    whole = Deadline(0.05)
    assert whole.at_most(60).remaining() <= 0.05
    with pytest.raises(DeadlineExpired, match=r"^The moon's rise did not happen within 0 s\.$"):
        whole.wait_for(lambda: False, "The moon's rise")
    assert whole.expired
