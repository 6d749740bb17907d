"""Pins the disks of a VM at T0: QEMU keeps what its guest overwrites, and serves the disks of T0 by NBD.

For each disk QEMU gets an empty qcow2 file above it, into which a job `blockdev-backup` with `sync=none`
copies what the guest is about to overwrite (QEMU docs/interop/live-block-operations.rst; "image fleecing").
That file, read through to the disk, is the disk of T0. The guest's own disks, and libvirt's view of them,
stay as they are. The guard takes all of it away again; the names begin with `PIN` (ledger.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.attach.ledger import PIN, PIN_LISTENER
from harness.attach.machine import AttachedMachine
from harness.errors import SetupBroken
from harness.linux.socket_folder import socket_folder
from harness.qemu.disk import make_empty_disk
from harness.qemu.qapi_schema import QapiSchema, read_schema

_BACKLOG = 16
# QEMU 10.1 qapi/block-core.json: what a copy that fails breaks; before that it is the guest's write.
_ON_ERROR = ("on-cbw-error", "break-snapshot")


@dataclass(frozen=True)
class PinnedDisk:
    """A disk as it was at T0.

    Attributes:
        node: name of the node that is the disk.
        file: path of its image, as QEMU names it.
        export: its name at the NBD server.
    """

    node: str
    file: str
    export: str


@dataclass(frozen=True)
class Pins:
    """The disks of a VM as they were at T0, as long as the guard has not taken them away.

    Attributes:
        disks: all that the guest can write to.
        server: path of the NBD server's socket, None without a disk.
    """

    disks: tuple[PinnedDisk, ...] = ()
    server: Path | None = None

    def of_node(self, name: str) -> PinnedDisk | None:
        """Return the disk that a node is."""
        return next((disk for disk in self.disks if disk.node == name), None)

    def of_file(self, path: str) -> PinnedDisk | None:
        """Return the disk that an image is."""
        return next((disk for disk in self.disks if disk.file == path), None)

    def connected(self) -> socket.socket:
        """Return a new connection to the NBD server.

        Raises:
            SetupBroken: QEMU takes none.
        """
        found = socket.socket(socket.AF_UNIX)
        try:
            found.connect(str(self.server))
        except OSError as error:
            found.close()
            raise SetupBroken(f"QEMU does not serve the disks of T0: {error.strerror}.") from error
        return found


NO_PINS = Pins()


@contextlib.contextmanager
def pin_place() -> Iterator[Path]:
    """Yield the path at which a VM's disks may be served."""
    with socket_folder() as folder:
        yield folder / "nbd"


def writable_disks(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the media, of `query-block`, that a guest can write to."""
    media = [block["inserted"] for block in blocks if block.get("inserted")]
    return [medium for medium in media if not medium.get("ro") and medium.get("node-name")]


@dataclass(frozen=True)
class PinPlan:
    """What pins the disks of a VM, prepared so that its guest need not stand still for long.

    Attributes:
        media: the disks, as in `query-block`.
        files: an empty file for each.
        more: further arguments of the job.
    """

    media: tuple[dict[str, Any], ...]
    files: tuple[Path, ...]
    more: Mapping[str, str]


def plan_pins(machine: AttachedMachine, folder: Path) -> PinPlan:
    """Look at the disks of a VM, and make the files that take what its guest overwrites in a folder."""
    media = writable_disks(machine.qmp.execute("query-block"))
    files = []
    for number, medium in enumerate(media):
        path = folder / f"{PIN}-{number}.qcow2"
        make_empty_disk(path, int(medium["image"]["virtual-size"]))
        path.chmod(0o600)
        files.append(path)
    return PinPlan(tuple(media), tuple(files), _safety(read_schema(machine)) if media else {})


def pin_disks(machine: AttachedMachine, plan: PinPlan, path: Path) -> Pins:
    """Pin the disks of a guest that stands still.

    Args:
        machine: the VM.
        plan: what is to be done.
        path: where QEMU is to serve them, which must not be there yet.

    Raises:
        CommandRefused: QEMU does not do it; the guard takes away what was begun.
    """
    if not plan.media:
        return NO_PINS
    _serve(machine, path)
    disks = []
    for medium, file in zip(plan.media, plan.files, strict=True):
        name, node = file.stem, str(medium["node-name"])
        _copy_before_writes(machine, node, file, name, plan.more)
        export = {"type": "nbd", "id": name, "node-name": name, "name": name, "writable": False}
        machine.qmp.execute("block-export-add", export)
        disks.append(PinnedDisk(node, str(medium["file"]), name))
    return Pins(tuple(disks), path)


def _safety(schema: QapiSchema) -> Mapping[str, str]:
    """Return the argument that has a full disk of ours harm the pin and not the guest, if QEMU has it."""
    name, value = _ON_ERROR
    known = any(one.name == name for one in schema.arguments("blockdev-backup"))
    return {name: value} if known else {}


def _serve(machine: AttachedMachine, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
        machine.qmp.pass_descriptor(listener.fileno(), PIN_LISTENER)
    address = {"type": "fd", "data": {"str": PIN_LISTENER}}
    machine.qmp.execute("nbd-server-start", {"addr": address})


def _copy_before_writes(
    machine: AttachedMachine, node: str, path: Path, name: str, more: Mapping[str, str]
) -> None:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        number = machine.qmp.add_descriptor(file, name)
    finally:
        os.close(file)
    storage = {"driver": "file", "filename": f"/dev/fdset/{number}", "locking": "off"}
    machine.qmp.execute(
        "blockdev-add", {"driver": "qcow2", "node-name": name, "file": storage, "backing": node}
    )
    job = {"job-id": name, "device": node, "target": name, "sync": "none", **more}
    machine.qmp.execute("blockdev-backup", job)
