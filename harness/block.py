"""Disk verbs over QMP: a disk on the command line, an external snapshot of it, a copy of what the guest sees.

All of it is done by the QEMU that has the disk, so no qemu-img is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.deadline import Deadline
from harness.machine import Machine
from harness.machine_config import qemu_quoted

DISK = "disk0"
"""Id of the guest's disk, a virtio-blk device."""

_DEVICE = ("-device", f"virtio-blk-pci,drive={DISK},id={DISK}")


def raw_disk(image: Path) -> tuple[str, ...]:
    """Arguments that give a guest a raw image as its disk."""
    return (
        *("-blockdev", f"driver=file,node-name=file0,filename={qemu_quoted(image)}"),
        *("-blockdev", f"driver=raw,node-name={DISK},file=file0"),
        *_DEVICE,
    )


def throw_away_disk(image: Path, form: str) -> tuple[str, ...]:
    """Arguments that give a guest an image as its disk, through an overlay that is gone when QEMU ends.

    Args:
        image: not written to.
        form: its format, `raw` or `qcow2`.
    """
    return ("-drive", f"if=none,id={DISK},format={form},snapshot=on,file={qemu_quoted(image)}", *_DEVICE)


def snapshot_disk(machine: Machine, overlay: Path) -> None:
    """Leave the disk as it is now, and let all further writes go to a new qcow2 file.

    Raises:
        CommandRefused: QEMU cannot.
    """
    arguments = {
        "node-name": _inserted(machine)["node-name"],
        "snapshot-file": str(overlay),
        "snapshot-node-name": f"overlay-{overlay.stem}",
        "format": "qcow2",
    }
    machine.qmp.execute("blockdev-snapshot-sync", arguments)


def copy_disk(machine: Machine, path: Path, deadline: Deadline) -> None:
    """Copy what the guest sees on its disk now into a raw file.

    Raises:
        CommandRefused: QEMU cannot.
        SubjectFailed: the copying failed, or did not end in time.
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
        "the end of a disk's copying",
    )
    machine.qmp.execute("blockdev-del", {"node-name": "copy"})
    if "error" in event.data:
        raise machine.failure(f"QEMU could not copy the guest's disk: {event.data['error']}")


def _inserted(machine: Machine) -> dict[str, Any]:
    """What is in the disk's drive, as `query-block` has it."""
    for drive in machine.qmp.execute("query-block"):
        # QEMU names a virtio device by its own id or by that of the bus device around it.
        if DISK in (drive.get("qdev", ""), drive["device"]) or f"/{DISK}/" in drive.get("qdev", ""):
            return dict(drive["inserted"])
    raise machine.failure("QEMU lists no drive for the guest's disk")
