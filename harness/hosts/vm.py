"""Boot a VM on this machine and use it as a host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.guest.identity import SshIdentity
from harness.guest.shell import GuestUnreachable
from harness.guest.ssh import SshShell
from harness.hosts.host import Host
from harness.hosts.link import SshLink
from harness.linux.run_queue import processor_time
from harness.process import last_line, log_tail
from harness.qemu.configuration import MachineConfig, qemu_quoted
from harness.qemu.spawned_machine import SpawnedMachine

_CONSOLE = "console.log"
# A kernel may have no driver for the console, so that it never says that it is ready.
_SILENT_SECONDS = 60.0
# A login needs a second of processor time in an emulated VM, and one that takes too long is in vain.
_LOGIN_SECONDS = 30.0
# The console is the kernel's to write, and its line is part of a sentence.
_LINE_LETTERS = 200


@dataclass(frozen=True)
class VmDisk:
    """A further disk of a VM host: `/dev/disk-NAME` there.

    Attributes:
        path: a raw disk image.
        writable: whether the host may write to it.
        mounted: whether it has an ext4 file system, which is mounted at `/disks/NAME` instead, read-only.
    """

    path: Path
    writable: bool = False
    mounted: bool = False


def disk_arguments(disks: Mapping[str, VmDisk]) -> tuple[str, ...]:
    """Return QEMU's arguments for further disks, given by name."""
    words: list[str] = []
    for name, disk in disks.items():
        mode = "readonly=off" if disk.writable else "readonly=on"
        words += [
            "-drive",
            f"file={qemu_quoted(disk.path)},format=raw,if=none,id=host-{name},{mode}",
            "-device",
            f"virtio-blk-pci,drive=host-{name},serial={'files' if disk.mounted else 'disk'}-{name}",
        ]
    return tuple(words)


@contextlib.contextmanager
def vm_host(
    name: str, config: MachineConfig, identity: SshIdentity, folder: Path, deadline: Deadline, ready: str
) -> Iterator[Host]:
    """Boot a VM and yield it as a host; leaving the `with` ends the VM.

    Args:
        name: its name in results.
        config: the VM.
        identity: how to log in.
        folder: receives the logs of the VM.
        deadline: for the boot.
        ready: a line on its console once it can be logged in to.

    Raises:
        SetupBroken: the VM does not answer over SSH in time, or its QEMU ended.
    """
    with SpawnedMachine(config, folder) as machine, SshShell(machine.ssh, identity) as shell:
        try:
            silence = deadline.at_most(_SILENT_SECONDS)
            _wait_for_line(ready.encode(), folder / _CONSOLE, silence, machine.alive)
            shell.connect(deadline, machine.alive, _LOGIN_SECONDS)
        except GuestUnreachable as error:
            # Not a failure of the subject: the QEMU of this VM is part of our set-up, the subject runs
            # inside.
            evidence = machine.evidence(folder / _CONSOLE)
            last = last_line(evidence.log_tail)
            said = f" The last output of its QEMU: {last}" if last else ""
            heard = _console_words(folder / _CONSOLE)
            raise SetupBroken(
                f"The VM host '{name}' did not boot: {error.sentence}{said} {heard}", evidence
            ) from error
        with Host(name, SshLink(shell.transport())) as host:
            host.processor_time = partial(processor_time, machine.pid)
            yield host


def _console_words(console: Path) -> str:
    """Return a sentence with what a kernel said last on its console: its panic where it had one."""
    lines = [line.strip() for line in log_tail(console).splitlines() if line.strip()]
    panics = [line for line in lines if "Kernel panic" in line]
    if not lines:
        return (
            "Nothing came on its console: is this a kernel for that processor, with a driver for its console?"
        )
    return f"Its console said last: {_shortened((panics or lines)[-1])}"


def _shortened(line: str) -> str:
    return line if len(line) <= _LINE_LETTERS else f"{line[:_LINE_LETTERS]}..."


def _wait_for_line(line: bytes, console: Path, deadline: Deadline, alive: Callable[[], bool]) -> None:
    """Wait until a VM's console has a line; return without it if time runs out or the VM ends."""
    while alive() and not deadline.expired:
        if console.exists() and line in console.read_bytes():
            return
        deadline.nap(0.1)
