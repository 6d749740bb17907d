"""Contract: a busy host prolongs the wait for items, and never calls them lost."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness.errors import HostTooBusy
from harness.linux.run_queue import ProcessorTime
from tests_functional.lib.patience import PatientDeadline


def _times(ran: int, waited: int) -> Callable[[int], ProcessorTime]:
    """Return a clock whose second and later readings have these times."""
    readings = iter([ProcessorTime(0, 0)])
    return lambda _pid: next(readings, ProcessorTime(ran, waited))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time of day of all deadlines, as a list of one."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def _deadline(ran: int, waited: int) -> PatientDeadline:
    return PatientDeadline(8, 1, 60, _times(ran, waited))


@pytest.mark.parametrize(("ran", "waited"), [(90, 10), (50, 50), (0, 0)])
def test_idle_host(clock: list[float], ran: int, waited: int) -> None:
    """The deadline stays where it is, and what did not happen is evidence."""
    deadline = _deadline(ran, waited)
    clock[0] += 7.9
    assert not deadline.expired
    clock[0] += 0.2
    assert deadline.expired
    deadline.require_granted("The arrival of 1 items")


def test_busy_host(clock: list[float]) -> None:
    """The deadline moves until QEMU has got as much as it would on a host that grants it one half."""
    deadline = _deadline(25, 75)
    for waited in (8.1, 15.9):
        clock[0] = 1000 + waited
        assert not deadline.expired
        assert 0 < deadline.remaining() <= 0.5
        with pytest.raises(HostTooBusy, match=r"within \d+ s, and QEMU got 25% of the processor time"):
            deadline.require_granted("The arrival of 1 items")
    clock[0] = 1016
    assert deadline.expired
    deadline.require_granted("The arrival of 1 items")


def test_host_that_is_too_busy(clock: list[float]) -> None:
    """The second limit ends the wait, and says nothing."""
    deadline = _deadline(5, 95)
    clock[0] += 59.9
    assert not deadline.expired
    clock[0] += 0.2
    assert deadline.expired
    with pytest.raises(HostTooBusy, match=r"within 60 s, and QEMU got 5% of the processor time"):
        deadline.require_granted("The arrival of 1 items")
