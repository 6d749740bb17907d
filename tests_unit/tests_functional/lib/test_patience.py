"""Contract: a busy host prolongs the wait for items, and never calls them lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.errors import HostTooBusy
from harness.linux.run_queue import ProcessorTime
from tests_functional.lib.patience import PatientDeadline


def _times(ran: int, waited: int) -> Callable[[int], ProcessorTime]:
    """Return a clock whose second and later readings have these times."""
    readings = iter([ProcessorTime(0, 0)])
    return lambda _pid: next(readings, ProcessorTime(ran, waited))


def test_idle_host() -> None:
    """The deadline stays where it is, and what did not happen is evidence."""
    deadline = PatientDeadline(0, 1, 60, _times(90, 10))
    assert deadline.expired
    deadline.require_granted("The arrival of 1 items")


def test_busy_host() -> None:
    """The deadline moves as long as the second limit allows."""
    assert not PatientDeadline(0, 1, 60, _times(10, 90)).expired
    late = PatientDeadline(0, 1, 0, _times(10, 90))
    assert late.expired
    with pytest.raises(HostTooBusy, match=r"QEMU got 10% of the processor time"):
        late.require_granted("The arrival of 1 items")
