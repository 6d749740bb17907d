"""A host that is a VM on this machine, booted for the purpose."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.host import LocalHost
from harness.hosts.host import Host
from harness.hosts.link import SshLink
from harness.machine import Machine
from harness.machine_config import MachineConfig, qemu_quoted
from harness.ssh import GuestShell, GuestUnreachable, SshIdentity


@dataclass(frozen=True)
class VmDisk:
    """A disk for a host besides its own: the host has it as `/dev/disk-NAME`, and mounts it as `/disks/NAME`.

    Attributes:
        path: a raw image.
        writable: whether the host may write to it.
    """

    path: Path
    writable: bool = False


def disk_arguments(disks: Mapping[str, VmDisk]) -> tuple[str, ...]:
    """QEMU's arguments for further disks, by name."""
    words: list[str] = []
    for name, disk in disks.items():
        mode = "readonly=off" if disk.writable else "readonly=on"
        words += [
            "-drive",
            f"file={qemu_quoted(disk.path)},format=raw,if=none,id=host-{name},{mode}",
            "-device",
            f"virtio-blk-pci,drive=host-{name},serial=disk-{name}",
        ]
    return tuple(words)


@contextlib.contextmanager
def vm_host(
    name: str, config: MachineConfig, identity: SshIdentity, folder: Path, deadline: Deadline
) -> Iterator[Host]:
    """Boot a VM and use it as a host; it is ended on leaving.

    Args:
        name: as results name it.
        config: the VM.
        identity: how to log in.
        folder: receives the logs of the VM.
        deadline: for its boot.

    Raises:
        SetupBroken: it does not answer, or its QEMU ended.
    """
    with Machine(config, LocalHost(), folder) as machine, GuestShell(machine.ssh_port, identity) as shell:
        try:
            shell.connect(deadline, machine.alive)
        except GuestUnreachable as error:
            # What is under test runs in this VM; the QEMU around it is our own set-up.
            evidence = machine.process.evidence(folder / "console.log")
            last = evidence.log_tail.strip().splitlines()[-1:]
            said = f" Its QEMU's last words: {last[0]}" if last else ""
            raise SetupBroken(
                f"The VM '{name}' does not come up: {error.sentence}{said}", evidence
            ) from error
        with Host(name, SshLink(shell.transport())) as host:
            yield host
