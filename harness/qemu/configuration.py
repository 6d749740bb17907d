"""The configuration of one QEMU, and the command line made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.qemu.disk import Disk

MIB = 1 << 20

# The guest's address in QEMU's user-mode network (QEMU net/slirp.c, default).
GUEST_ADDRESS = "10.0.2.15"


@dataclass(frozen=True)
class MachineConfig:
    """The configuration of one QEMU; source and restored guest share it, so that the stream can be loaded.

    Attributes:
        executable: QEMU, or a program that behaves like it.
        kernel: Linux image for `-kernel`, None if the disk boots by firmware and its own boot loader.
        initrd: initramfs for `-initrd`, None if the kernel needs none.
        cmdline: kernel command line, used with a kernel.
        ram_mib: guest RAM in MiB.
        vcpus: number of virtual CPUs.
        accel: `kvm` or `tcg`.
        machine: machine type, as for `-machine`.
        extra: further arguments, appended as they are.
        disk: the guest's disk at the start; the machine writes only to an overlay of its own.
    """

    executable: Path
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    ram_mib: int = 512
    vcpus: int = 1
    accel: str = "tcg"
    machine: str = DEFAULT_ARCHITECTURE.machine
    extra: tuple[str, ...] = ()
    disk: Disk | None = None


QEMU_LOG = "qemu.log"
"""File name of QEMU's own output."""

OVERLAY_FILE = "disk.qcow2"
"""File name of the overlay that takes the guest's writes to its disk; deleted when the machine ends."""


def qemu_argv(config: MachineConfig, folder: Path, qmp_fd: int | str, incoming: bool) -> list[str]:
    """Return the command line of one QEMU.

    Args:
        config: what to run.
        folder: receives `console.log`, and has the disk's overlay.
        qmp_fd: number of our QMP socket in the child.
        incoming: start it with `-incoming defer`, to wait for `migrate-incoming`.
    """
    # fmt: off
    argv = [
        str(config.executable),
        "-name", "snapproof,debug-threads=on",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",

        # QEMU's default lets the host merge equal pages of the guest (KSM), which would disturb tests at
        # random.
        "-machine", config.machine if "mem-merge=" in config.machine else f"{config.machine},mem-merge=off",
        "-accel", config.accel,
        "-m", f"{config.ram_mib}M",
        "-smp", str(config.vcpus),

        *_boot(config),

        "-chardev", f"socket,id=qmp,fd={qmp_fd}",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", f"file,id=console,path={qemu_quoted(folder / 'console.log')},append=on",
        "-serial", "chardev:console",

        # Port 0: the kernel picks a free port, so two machines cannot compete for one.
        "-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-{GUEST_ADDRESS}:22",
        "-device", "virtio-net-pci,netdev=net0,romfile=",
        "-device", "virtio-rng-pci",
        *_disk(config, folder),

        # QMP does not report why userfaultfd failed; these trace points show the errno.
        "-trace", "uffd_*",
    ]
    # fmt: on
    if incoming:
        argv += ["-incoming", "defer"]
    return argv + list(config.extra)


def _boot(config: MachineConfig) -> list[str]:
    if config.kernel is None:
        return []
    initrd = ["-initrd", str(config.initrd)] if config.initrd else []
    return ["-kernel", str(config.kernel), *initrd, "-append", config.cmdline]


def _disk(config: MachineConfig, folder: Path) -> list[str]:
    if config.disk is None:
        return []
    overlay = qemu_quoted(folder / OVERLAY_FILE)
    return [
        *("-drive", f"file={overlay},format=qcow2,if=none,id=guest-disk,discard=unmap"),
        *("-device", "virtio-blk-pci,id=guest-disk,drive=guest-disk,bootindex=1"),
    ]


def qemu_quoted(path: Path) -> str:
    """Quote a path as a value in a QEMU option list, where a comma must be doubled."""
    return str(path).replace(",", ",,")
