"""What one QEMU is started with, and the command line that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.disk import Disk

MIB = 1 << 20

# Where QEMU's user-mode network puts the guest (QEMU net/slirp.c defaults).
GUEST_ADDRESS = "10.0.2.15"


@dataclass(frozen=True)
class MachineConfig:
    """One QEMU's configuration; source and restored guest share one, so that the stream fits.

    Attributes:
        executable: QEMU or any program that behaves like it.
        kernel: Linux image for `-kernel`, None where the disk boots by its own firmware and boot loader.
        initrd: initramfs for `-initrd`, None where the kernel needs none.
        cmdline: kernel command line, used with a kernel.
        ram_mib: guest RAM in MiB.
        vcpus: number of virtual CPUs.
        accel: `kvm` or `tcg`.
        machine: machine type, as for `-machine`.
        extra: further arguments, appended as they are.
        disk: the guest's disk as it is to be at the start; the machine writes to an overlay of its own.
    """

    executable: Path
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    ram_mib: int = 512
    vcpus: int = 1
    accel: str = "tcg"
    machine: str = "pc"
    extra: tuple[str, ...] = ()
    disk: Disk | None = None


OVERLAY_FILE = "disk.qcow2"
"""What the guest has written to its disk, in the machine's folder; thrown away with it."""


def qemu_argv(config: MachineConfig, folder: Path, qmp_fd: int | str, incoming: bool) -> list[str]:
    """The command line of one QEMU.

    Args:
        config: what to run.
        folder: where `console.log` goes, and where the disk's overlay is.
        qmp_fd: our QMP socket's number in the child.
        incoming: start it waiting for `migrate-incoming`.
    """
    # fmt: off
    argv = [
        str(config.executable),
        "-name", "snapproof,debug-threads=on",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",

        # By QEMU's default the host may merge equal pages (KSM), whatever else it does at that time.
        "-machine", config.machine if "mem-merge=" in config.machine else f"{config.machine},mem-merge=off",
        "-accel", config.accel,
        "-m", f"{config.ram_mib}M",
        "-smp", str(config.vcpus),

        *_boot(config),

        "-chardev", f"socket,id=qmp,fd={qmp_fd}",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", f"file,id=console,path={qemu_quoted(folder / 'console.log')},append=on",
        "-serial", "chardev:console",

        # Port 0: the kernel picks one that is free, so two machines can never race for it.
        "-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-{GUEST_ADDRESS}:22",
        "-device", "virtio-net-pci,netdev=net0,romfile=",
        "-device", "virtio-rng-pci",
        *_disk(config, folder),

        # QMP hides why userfaultfd failed; these trace points carry the errno.
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
    """A path as the value of a QEMU option list, in which a comma must be doubled."""
    return str(path).replace(",", ",,")
