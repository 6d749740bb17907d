"""Contract: disk verbs find the guest's disk whatever QEMU calls it; a copy that fails is QEMU's fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.qemu.block import copy_disk, raw_disk, snapshot_disk, throw_away_disk
from harness.qemu.machine import Machine
from harness.qemu.qmp import Event

_INSERTED = {"node-name": "#block12", "image": {"virtual-size": 8192}}


class _Machine:
    """Stands in for QEMU: one drive, and a copy job that ends as told."""

    def __init__(self, drive: dict[str, Any], **ended: str) -> None:
        self.qmp = self
        self.done: dict[str, Any] = {}
        self._drive = {"device": "", "inserted": _INSERTED, **drive}
        self._ended = {"device": "copy", **ended}

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Answer, and remember what was asked for."""
        self.done[command] = arguments
        return [{"device": "cd0"}, self._drive]

    def mark(self) -> int:
        """Return 0: this QEMU keeps no events."""
        return 0

    def wait_event(self, match: Any, *_: Any) -> Event:
        """The job's end, which must be the one that is waited for."""
        assert not match(Event("BLOCK_JOB_COMPLETED", {"device": "other"}, 0.0))
        event = Event("BLOCK_JOB_COMPLETED", self._ended, 0.0)
        assert match(event)
        return event

    def failure(self, sentence: str) -> Exception:
        """The error that blames QEMU."""
        return AssertionError(sentence)


def _machine(drive: dict[str, Any], **ended: str) -> tuple[Machine, dict[str, Any]]:
    made = _Machine(drive, **ended)
    return cast(Machine, made), made.done


@pytest.mark.parametrize(
    "drive",
    [
        {"qdev": "/machine/peripheral/disk0/virtio-backend"},
        {"qdev": "disk0"},
        {"device": "disk0", "qdev": "/machine/peripheral/disk0/virtio-backend"},
    ],
)
def test_snapshot_of_whatever_node_is_on_top(drive: dict[str, Any]) -> None:
    """QEMU names the drive by its device or by its own id."""
    machine, done = _machine(drive)
    snapshot_disk(machine, Path("/tmp/x/overlay.qcow2"))
    asked = done["blockdev-snapshot-sync"]
    assert asked["node-name"] == "#block12"
    assert asked["snapshot-file"] == "/tmp/x/overlay.qcow2"
    assert asked["format"] == "qcow2"


def test_guest_without_our_disk() -> None:
    """Another disk is not taken for it."""
    machine, _ = _machine({"qdev": "/machine/peripheral/disk01/virtio-backend"})
    with pytest.raises(AssertionError, match="does not list the guest's disk 'disk0'"):
        snapshot_disk(machine, Path("overlay"))


def test_copy(tmp_path: Path) -> None:
    """A file of the disk's size, filled by the job; the node is gone afterwards."""
    machine, done = _machine({"qdev": "disk0"})
    copy_disk(machine, tmp_path / "copy.raw", Deadline(1))
    assert (tmp_path / "copy.raw").stat().st_size == 8192
    assert done["blockdev-backup"]["device"] == "#block12"
    assert done["blockdev-del"] == {"node-name": "copy"}


def test_copy_that_fails(tmp_path: Path) -> None:
    """A job that ends with an error is told with QEMU's words."""
    machine, done = _machine({"qdev": "disk0"}, error="No space left on device")
    with pytest.raises(AssertionError, match="could not copy the guest's disk: No space left"):
        copy_disk(machine, tmp_path / "copy.raw", Deadline(1))
    assert "blockdev-del" in done


def test_arguments() -> None:
    """The same device either way, so that the stream fits; a comma in a path is doubled."""
    path = Path("/tmp/a,b/base.raw")
    source, restored = raw_disk(path), throw_away_disk(path, "raw")
    assert source[-2:] == restored[-2:] == ("-device", "virtio-blk-pci,drive=disk0,id=disk0")
    assert "filename=/tmp/a,,b/base.raw" in source[1]
    assert "snapshot=on,file=/tmp/a,,b/base.raw" in restored[1]
