"""Contract: a disk that is not ready is asked again, and any other error is one at once."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.machine import Machine
from tests_functional.lib.drivers import scsi
from tests_functional.lib.drivers.disk import Answer, DiskDriver, RequestFailed
from tests_functional.lib.drivers.scsi import BUSY, CHECK_CONDITION, GOOD, get_ready
from tests_functional.lib.drivers.virtio_disk import SCSI, _scsi_answer


class _Disk:
    """A disk that answers by the given statuses, one for each request; an error is raised."""

    at_once = 1

    def __init__(self, *statuses: int | Exception) -> None:
        self.statuses, self.asked = list(statuses), 0

    def ask(self) -> int:
        self.asked += 1
        return self.asked - 1

    def tell(self, _request: int) -> None:
        """Do nothing."""

    def answers(self) -> list[Answer]:
        status = self.statuses.pop(0)
        if isinstance(status, Exception):
            raise status
        return [Answer(self.asked - 1, status)]


def _get_ready(monkeypatch: pytest.MonkeyPatch, disk: _Disk, *not_ready: Collection[int]) -> None:
    class _Patient:
        def __enter__(self) -> Deadline:
            return Deadline(5)

        def __exit__(self, *_: Any) -> None:
            """Do nothing."""

    monkeypatch.setattr(scsi, "patient", lambda _machine: _Patient())
    get_ready(cast(DiskDriver, disk), disk.ask, "disk", cast(Machine, SimpleNamespace()), *not_ready)


@pytest.mark.parametrize(
    "statuses", [[], [CHECK_CONDITION], [BUSY], [CHECK_CONDITION, CHECK_CONDITION, BUSY]]
)
def test_disk_that_gets_ready(monkeypatch: pytest.MonkeyPatch, statuses: list[int]) -> None:
    """It is asked once more than it was not."""
    disk = _Disk(*statuses, GOOD)
    _get_ready(monkeypatch, disk)
    assert disk.asked == len(statuses) + 1


def test_disk_that_does_not_get_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last status is the error."""
    disk = _Disk(CHECK_CONDITION, CHECK_CONDITION, CHECK_CONDITION, BUSY, GOOD)
    with pytest.raises(RequestFailed, match="disk answers a request by status 0x8") as raised:
        _get_ready(monkeypatch, disk)
    assert (raised.value.answered, disk.asked) == (BUSY, 4)


@pytest.mark.parametrize("status", [1, 3, 7, 9, CHECK_CONDITION << 8, 0x102])
def test_other_status(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """It is no answer of a disk that is not ready, and asking again would hide it."""
    disk = _Disk(status, GOOD)
    with pytest.raises(RequestFailed):
        _get_ready(monkeypatch, disk)
    assert disk.asked == 1


def test_error_of_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has ended where it should not, say."""
    disk = _Disk(SetupBroken("It reports its end by 7."), GOOD)
    with pytest.raises(SetupBroken, match="by 7"):
        _get_ready(monkeypatch, disk)
    assert disk.asked == 1


def test_statuses_of_a_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not hand on the disk's own has others."""
    disk = _Disk(1, GOOD)
    _get_ready(monkeypatch, disk, (1,))
    assert disk.asked == 2
    with pytest.raises(RequestFailed):
        _get_ready(monkeypatch, _Disk(CHECK_CONDITION, GOOD), (1,))


def test_status_in_an_answer_of_virtio_scsi() -> None:
    """The response behind it is that of a disk that was reached."""
    assert SCSI.status(_scsi_answer(CHECK_CONDITION)) == CHECK_CONDITION << 8
