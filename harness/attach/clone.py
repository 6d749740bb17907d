"""A QEMU of our own that is made like one of somebody else's, to restore a snapshot of it."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from harness.attach.clone_argv import AGENT, Clone, clone_argv, link_word
from harness.attach.machine import AttachedMachine
from harness.attach.pins import NO_PINS, Pins
from harness.attach.process import CLONE_MONITOR, QemuProcess
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
        agent: a socket to its guest agent, None where it has none.
    """

    def __init__(
        self, source: AttachedMachine, folder: Path, pins: Pins = NO_PINS, channel: str = ""
    ) -> None:
        """Describe the clone of an attached VM; entering the `with` starts it.

        Args:
            source: the VM.
            folder: its own.
            pins: disks of T0, which it reads from the VM's QEMU.
            channel: name of the virtio-serial port of the guest agent, "" to link none.

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
        own = process.uid == os.geteuid() and process.same_files is not False
        if not own and os.geteuid() != 0:
            raise NotApplicable(
                f"QEMU runs as user {process.uid}{_elsewhere(process)} and this command as user "
                f"{os.geteuid()}; a second one like it takes the same rights. Run this as root."
            )
        folder.mkdir(parents=True, exist_ok=True)
        # The overlays have what the guest writes.
        folder.chmod(0o700)
        sizes = {
            str(node["node-name"]): int(node["image"]["virtual-size"])
            for node in source.qmp.execute("query-named-block-nodes", {"flat": True})
        }
        self._source_pid = process.pid
        self._prefix = _prefix(process, own)
        sizes_of = _image_size_of(process)
        self._clone = clone_argv(process.argv[1:], folder, sizes, sizes_of, pins, channel)
        self.changes = tuple(self._clone.changes)
        self._files: list[int] = []
        self._pins, self._links = pins, dict[str, socket.socket]()
        self.agent: socket.socket | None = None
        self.overlays = len(self._clone.overlays) - sum(name != AGENT for name in self._clone.links)
        if self._clone.impossible:
            raise NotApplicable(
                "No second QEMU can be made like this one: " + " ".join(self._clone.impossible)
            )
        _write_down(self._clone, folder)

    def arguments(self, qmp_fd: int, ssh_address: str) -> list[str]:
        """Return the command line: the other one's, changed; the arguments are those of the base class."""
        del ssh_address
        sets = zip(self._clone.overlays, self._files, strict=True)
        return [
            *self._prefix,
            # The first words may be options of a program loader.
            *(self._linked(word) for word in self._clone.argv),
            *(word for one, file in sets for word in ("-add-fd", f"fd={file},set={one.number}")),
            *("-chardev", f"socket,id=snapproof-qmp,fd={qmp_fd}"),
            *("-mon", CLONE_MONITOR),
            *("-incoming", "defer"),
        ]

    def passed_files(self) -> tuple[int, ...]:
        """Return the descriptors of the overlays and links."""
        return (*self._files, *(link.fileno() for link in self._links.values()))

    def end(self) -> None:
        """End QEMU, and the connection to its guest agent."""
        try:
            super().end()
        finally:
            if self.agent is not None:
                self.agent.close()
                self.agent = None

    def _linked(self, word: str) -> str:
        """Return a word with the numbers of sockets in it."""
        for name, link in self._links.items():
            word = word.replace(link_word(name), str(link.fileno()))
        return word

    def _launch(self) -> None:
        try:
            for overlay in self._clone.overlays:
                self._files.append(os.open(overlay.path, os.O_RDWR | os.O_CLOEXEC))
            for name in self._clone.links:
                self._links[name] = self._linked_agent() if name == AGENT else self._pins.connected()
            super()._launch()
        finally:
            for file in self._files:
                os.close(file)
            for link in self._links.values():
                link.close()
            self._files.clear()
            self._links.clear()

    def _linked_agent(self) -> socket.socket:
        self.agent, theirs = socket.socketpair()
        return theirs


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


def _elsewhere(process: QemuProcess) -> str:
    return " in another mount namespace" if process.same_files is False else ""


def _image_size_of(process: QemuProcess) -> Callable[[Path], int]:
    """Return the function that reads the size of an image by its path in the process's namespace."""
    if process.same_files is not False:
        return image_size
    return lambda path: image_size(Path(f"/proc/{process.pid}/root{path}"))


def _prefix(process: QemuProcess, own: bool) -> list[str]:
    """Return what starts the same program in the same folder, with the variables that it needs.

    Args:
        process: the QEMU.
        own: it is ours; otherwise its user, group and mount namespace are taken on.
    """
    try:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="surrogateescape")
    except OSError:
        environment = ""
    variables = [one for one in environment.split("\0") if one.partition("=")[0] in _KEPT_VARIABLES]
    if not own:
        enter = [sys.executable, "-S", str(Path(__file__).with_name("enter.py"))]
        numbers = [str(number) for number in (process.pid, process.uid, process.gid)]
        return ["env", *variables, *enter, *numbers, _program(process)]
    try:
        folder = str(Path(f"/proc/{process.pid}/cwd").readlink())
    except OSError:
        folder = "/"
    # The program that runs, also where a newer one has taken its place on the disk.
    return ["env", "-C", folder, *variables, _program(process)]


def _program(process: QemuProcess) -> str:
    """Return a path of the program: in its own mount namespace if that is another one than ours."""
    named = Path(process.argv[0])
    running = f"/proc/{process.pid}/exe"
    if process.same_files is False:
        # The /proc of that namespace may have other process ids.
        theirs = Path(f"/proc/{process.pid}/root{named}")
        if not named.is_absolute() or not theirs.exists() or not theirs.samefile(running):
            raise NotApplicable(
                f"The program '{named}' is no longer the one that runs in the VM's mount namespace."
            )
        return str(named)
    if named.is_absolute() and process.executable and named.resolve() == process.executable:
        return str(named)
    return running


def _write_down(clone: Clone, folder: Path) -> None:
    (folder / CHANGES_FILE).write_text("".join(f"{change}\n" for change in clone.changes))
    for overlay in clone.overlays:
        make_empty_disk(overlay.path, overlay.size)
