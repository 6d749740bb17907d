"""Contract: the writers wrote while RAM was saved, and none stalled for half of the save."""

from __future__ import annotations

import pytest

from harness.status import Status
from tests_unit.support.scenario_values import sentences
from validators.oracles.o5_source_guest.during_save import check_overlap, check_write_stall

BEFORE = (700, 900)
COMPLETED = (800, 1000)


def test_overlap() -> None:
    """Writers that wrote between T0 and the end of the save, counted."""
    result = check_overlap(BEFORE, (710, 905), COMPLETED)
    assert sentences(result) == []
    assert result.facts["pages_written_during_save"] == 185


def test_nothing_written_during_the_save() -> None:
    """A save with no write beside it proves nothing, whatever the other oracles say."""
    (sentence,) = sentences(check_overlap(BEFORE, (800, 1000), COMPLETED))
    assert sentence.startswith("No page was written between T0 and the end of the save")


@pytest.mark.parametrize(("steps", "thread", "early"), [((699, 905), 0, 1), ((790, 880), 1, 20)])
def test_t0_before_the_save(steps: tuple[int, int], thread: int, early: int) -> None:
    """A thread older than the request shows, also where another thread is ahead by more."""
    assert sentences(check_overlap(BEFORE, steps, COMPLETED)) == [
        f"T0 in the file is {early} steps of thread {thread} before the save was asked for."
    ]


def test_lost_thread() -> None:
    """A file that knows fewer writers than the guest has."""
    assert sentences(check_overlap(BEFORE, (710,), COMPLETED)) == [
        "The file knows 1 writer threads, the guest has 2."
    ]


def test_writers_that_stand_still() -> None:
    """Half of a save of 2 s is too long; a short save does not make the host's scheduling a fault."""
    assert check_write_stall(900_000, 2000).status is Status.PASS
    assert sentences(check_write_stall(1_100_000, 2000)) == [
        "A writer of the guest stalled for 1.100 s during a save of 2.000 s."
    ]
    assert check_write_stall(200_000, 100).status is Status.PASS
