"""Commands about disks, and saves of other kinds, that are given while RAM is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.qemu.disk import make_empty_disk
from tests_functional.during_save.thing import Place, Thing, in_turn

_DISK_BYTES = 1 << 20
# Room for what savevm puts into the image.
_IMAGE_BYTES = 256 << 20
_TAG = "before"


def _add_nodes(*names: str) -> Callable[[Place], None]:
    """Return a function that gives QEMU empty qcow2 images, which no device of the guest uses."""

    def add(place: Place) -> None:
        for name in names:
            path = place.folder / f"{name}.qcow2"
            make_empty_disk(path, _IMAGE_BYTES if name == "image" else _DISK_BYTES)
            file = {"driver": "file", "filename": str(path)}
            options: dict[str, Any] = {"driver": "qcow2", "node-name": name, "file": file}
            if name == "overlay":
                options["backing"] = None
            place.machine.qmp.execute("blockdev-add", options)

    return add


def _job(command: str, **arguments: str) -> Callable[[Place], None]:
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    # A job that began by a command of QEMU's older ones goes by itself unless it is told to stay.
    named_all = {**named, "auto-dismiss": False}
    return lambda place: place.run_job(command, "job", named_all)


def _put_overlay(place: Place) -> None:
    place.give("blockdev-snapshot", {"node": "disk", "overlay": "overlay"})


def snapshot_job(command: str) -> Callable[[Place], None]:
    """Return a function that runs a job which saves the guest into the image, or loads it from there."""
    return lambda place: place.run_job(
        command, "job", {"tag": _TAG, "vmstate": "image", "devices": ["image"]}
    )


def _hmp(line: str) -> Callable[[Place], None]:
    def give(place: Place) -> None:
        place.hmp(line)

    return give


with_image = _add_nodes("image")
"""Gives QEMU an image that it can save the guest into."""

_WITH_SAVED = in_turn(with_image, _hmp(f"savevm {_TAG}"))
_STREAMED = in_turn(_add_nodes("disk", "overlay"), _put_overlay)

DISK_THINGS: Mapping[str, Thing] = {
    "savevm": Thing(
        "two saves of all of the guest at a time",
        _hmp("savevm now"),
        prepare=with_image,
        refused=True,
    ),
    "snapshot-save": Thing(
        "the same as a job", snapshot_job("snapshot-save"), prepare=with_image, refused=True
    ),
    "delvm": Thing("an older snapshot is removed from the disk", _hmp(f"delvm {_TAG}"), prepare=_WITH_SAVED),
    "loadvm": Thing(
        "a load replaces all of what is being saved",
        _hmp(f"loadvm {_TAG}"),
        prepare=_WITH_SAVED,
        refused=True,
    ),
    "snapshot-load": Thing(
        "the same as a job", snapshot_job("snapshot-load"), prepare=_WITH_SAVED, refused=True
    ),
    "mirror": Thing(
        "storage is moved at any time",
        _job("blockdev-mirror", device="disk", target="target", sync="full"),
        prepare=_add_nodes("disk", "target"),
    ),
    "backup": Thing(
        "backups are made at the time of snapshots",
        _job("blockdev-backup", device="disk", target="target", sync="full"),
        prepare=_add_nodes("disk", "target"),
    ),
    "external-snapshot": Thing(
        "the disk's half of a snapshot", _put_overlay, prepare=_add_nodes("disk", "overlay")
    ),
    "commit": Thing("an older overlay is merged", _job("block-commit", device="overlay"), prepare=_STREAMED),
    "stream": Thing("an older base is merged", _job("block-stream", device="overlay"), prepare=_STREAMED),
}
