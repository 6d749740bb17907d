"""Give a guest a disk, and over QMP take an external snapshot of it or copy its content to a file.

The QEMU that has the disk does all of it, so qemu-img is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.qemu.configuration import qemu_quoted
from harness.qemu.machine import Machine

DISK = "disk0"
"""Id of the guest's disk, a virtio-blk device."""

_DEVICE = ("-device", f"virtio-blk-pci,drive={DISK},id={DISK}")


def raw_disk(image: Path) -> tuple[str, ...]:
    """Return the QEMU arguments that give a guest a raw image as its disk."""
    return (
        *("-blockdev", f"driver=file,node-name=file0,filename={qemu_quoted(image)}"),
        *("-blockdev", f"driver=raw,node-name={DISK},file=file0"),
        *_DEVICE,
    )


def throw_away_disk(image: Path, form: str) -> tuple[str, ...]:
    """Return the QEMU arguments that give a guest an image as its disk, with a temporary overlay for writes.

    Args:
        image: the disk image, which is not written.
        form: its format, `raw` or `qcow2`.
    """
    return ("-drive", f"if=none,id={DISK},format={form},snapshot=on,file={qemu_quoted(image)}", *_DEVICE)


def snapshot_disk(machine: Machine, overlay: Path) -> None:
    """Take an external snapshot: the disk's file stays as it is, further writes go to a new qcow2 overlay.

    Raises:
        CommandRefused: QEMU refuses it.
    """
    arguments = {
        "node-name": _inserted(machine)["node-name"],
        "snapshot-file": str(overlay),
        "snapshot-node-name": f"overlay-{overlay.stem}",
        "format": "qcow2",
    }
    machine.qmp.execute("blockdev-snapshot-sync", arguments)


def copy_disk(machine: Machine, path: Path, deadline: Deadline) -> None:
    """Copy the current content of the guest's disk to a raw file.

    Raises:
        CommandRefused: QEMU refuses it.
        SubjectFailed: the copy failed, or did not end in time.
    """
    inserted = _inserted(machine)
    with path.open("wb") as file:
        file.truncate(inserted["image"]["virtual-size"])
    target = {"driver": "raw", "node-name": "copy", "file": {"driver": "file", "filename": str(path)}}
    machine.qmp.execute("blockdev-add", target)
    mark = machine.qmp.mark()
    job = {"job-id": "copy", "device": inserted["node-name"], "target": "copy", "sync": "full"}
    machine.qmp.execute("blockdev-backup", job)
    event = machine.qmp.wait_event(
        lambda event: event.name == "BLOCK_JOB_COMPLETED" and event.data["device"] == "copy",
        mark,
        deadline,
        "the event BLOCK_JOB_COMPLETED for the copy of the disk",
    )
    machine.qmp.execute("blockdev-del", {"node-name": "copy"})
    if "error" in event.data:
        raise machine.failure(f"QEMU could not copy the guest's disk: {event.data['error']}")


def _inserted(machine: Machine) -> dict[str, Any]:
    """Return the member `inserted` of `query-block` for the guest's disk."""
    for drive in machine.qmp.execute("query-block"):
        # `qdev` is the id of the virtio device, or a path with the id of its bus device.
        if DISK in (drive.get("qdev", ""), drive["device"]) or f"/{DISK}/" in drive.get("qdev", ""):
            return dict(drive["inserted"])
    raise machine.failure(f"QEMU's query-block does not list the guest's disk '{DISK}'")
