"""A QEMU of our own that is made like one of somebody else's, to restore a snapshot of it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from harness.attach.clone_argv import Clone, clone_argv
from harness.attach.machine import AttachedMachine
from harness.attach.process import QemuProcess
from harness.errors import MachineryMissing, NotApplicable
from harness.qemu.disk import make_empty_disk
from harness.qemu.spawned_machine import SpawnedMachine

CHANGES_FILE = "changes.txt"
"""How the clone's command line differs, in its folder."""

_QCOW2_MAGIC = b"QFI\xfb"
# QEMU docs/interop/qcow2.rst: size of the disk in the guest, big-endian.
_QCOW2_SIZE_AT = 24
_SECTOR = 512
_KEPT_VARIABLES = ("QEMU_MODULE_DIR",)


class ClonedMachine(SpawnedMachine):
    """A QEMU with the machine and devices of another one, which waits for its snapshot.

    Attributes:
        changes: how its command line differs from the other one's, a sentence each.
        overlays: how many of its disks have the content of now.
    """

    def __init__(self, source: AttachedMachine, folder: Path) -> None:
        """Describe the clone of an attached VM; entering the `with` starts it.

        Raises:
            MachineryMissing: the command line of the VM cannot be read.
            NotApplicable: a second QEMU cannot have what this VM has.
        """
        super().__init__(source.config, folder, incoming=True)
        process = source.process
        if process is None or not process.argv:
            raise MachineryMissing(
                "QEMU's command line cannot be read (/proc/PID/cmdline), so no QEMU can be made like it."
            )
        if process.same_files is False:
            raise NotApplicable(
                "QEMU is in another mount namespace (a container), so its files cannot be given to a "
                "second QEMU."
            )
        if process.uid != os.geteuid():
            # Its program and command line are in that user's hands.
            raise NotApplicable(
                f"QEMU runs as user {process.uid} and this command as user {os.geteuid()}; the latter runs "
                "nothing that another user may have written into a command line. Run this as that user."
            )
        folder.mkdir(parents=True, exist_ok=True)
        # The overlays have what the guest writes.
        folder.chmod(0o700)
        sizes = {
            str(node["node-name"]): int(node["image"]["virtual-size"])
            for node in source.qmp.execute("query-named-block-nodes", {"flat": True})
        }
        self._source_pid = process.pid
        self._prefix = _prefix(process)
        self._clone = clone_argv(process.argv[1:], folder, sizes, image_size)
        self.changes = tuple(self._clone.changes)
        self.overlays = len(self._clone.overlays)
        if self._clone.impossible:
            raise NotApplicable(
                "No second QEMU can be made like this one: " + " ".join(self._clone.impossible)
            )
        _write_down(self._clone, folder)

    def arguments(self, qmp_fd: int, ssh_address: str) -> list[str]:
        """Return the command line: the other one's, changed; the arguments are those of the base class."""
        del ssh_address
        return [
            *self._prefix,
            *self._clone.argv,
            *("-chardev", f"socket,id=snapproof-qmp,fd={qmp_fd}"),
            *("-mon", "chardev=snapproof-qmp,mode=control"),
            *("-incoming", "defer"),
        ]


def image_size(path: Path) -> int:
    """Return the bytes of a raw or qcow2 image as the guest sees it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_QCOW2_SIZE_AT + 8)
        if head.startswith(_QCOW2_MAGIC) and len(head) >= _QCOW2_SIZE_AT + 8:
            return int(struct.unpack_from(">Q", head, _QCOW2_SIZE_AT)[0])
        return -(-file.seek(0, 2) // _SECTOR) * _SECTOR


def _prefix(process: QemuProcess) -> list[str]:
    """Return what starts the same program in the same folder, with the variables that it needs."""
    try:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="surrogateescape")
    except OSError:
        environment = ""
    variables = [one for one in environment.split("\0") if one.partition("=")[0] in _KEPT_VARIABLES]
    try:
        folder = str(Path(f"/proc/{process.pid}/cwd").readlink())
    except OSError:
        folder = "/"
    # The program that runs, also where a newer one has taken its place on the disk.
    return ["env", "-C", folder, *variables, _program(process)]


def _program(process: QemuProcess) -> str:
    named = Path(process.argv[0])
    if named.is_absolute() and process.executable and named.resolve() == process.executable:
        return str(named)
    return f"/proc/{process.pid}/exe"


def _write_down(clone: Clone, folder: Path) -> None:
    (folder / CHANGES_FILE).write_text("".join(f"{change}\n" for change in clone.changes))
    for overlay in clone.overlays:
        make_empty_disk(overlay.path, overlay.size)
