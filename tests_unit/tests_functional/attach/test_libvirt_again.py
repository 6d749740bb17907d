"""Contract: a thread or a child process that a proof leaves in QEMU is a failure."""

from __future__ import annotations

import pytest

from harness.codes import Code
from harness.status import Status
from tests_functional.attach.libvirt_again import Busy, judge_threads

_BEFORE = Busy(("CPU 0/TCG", "qemu"), 0, 1000, 4)


@pytest.mark.parametrize(
    ("now", "status"),
    [
        (Busy(("CPU 0/TCG", "qemu"), 0, 2, 9), Status.PASS),
        (Busy(("CPU 0/TCG", "live_migration", "qemu"), 0, 1000, 4), Status.FAIL),
        (Busy(("qemu",), 0, 1000, 4), Status.FAIL),
        (Busy(("CPU 0/TCG", "qemu"), 1, 1000, 4), Status.FAIL),
    ],
)
def test_threads_and_children(now: Busy, status: Status) -> None:
    """Rates of writes are figures: a busy host changes them."""
    check = judge_threads(_BEFORE, now)
    assert check.status is status
    assert all(one.code is Code.ATTACH_LEFT for one in check.violations)


def test_figures() -> None:
    """Each has the name of its time."""
    assert _BEFORE.figures("before") == {
        "before/threads": 2, "before/page_writes_per_second": 1000, "before/dirty_mib_per_second": 4,
    }  # fmt: skip
