"""What one QEMU is started with, and the command line that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20

# Where QEMU's user-mode network puts the guest (QEMU net/slirp.c defaults).
GUEST_ADDRESS = "10.0.2.15"


@dataclass(frozen=True)
class MachineConfig:
    """One QEMU's configuration; source and restored guest share one, so that the stream fits.

    Attributes:
        executable: QEMU or any program that behaves like it.
        kernel: Linux image for `-kernel`.
        initrd: initramfs for `-initrd`.
        cmdline: kernel command line.
        ram_mib: guest RAM in MiB.
        vcpus: number of virtual CPUs.
        accel: `kvm` or `tcg`.
        machine: machine type, as for `-machine`.
        extra: further arguments, appended as they are.
    """

    executable: Path
    kernel: Path
    initrd: Path
    cmdline: str
    ram_mib: int = 512
    vcpus: int = 1
    accel: str = "tcg"
    machine: str = "pc"
    extra: tuple[str, ...] = ()


def qemu_argv(config: MachineConfig, folder: Path, qmp_fd: int | str, incoming: bool) -> list[str]:
    """The command line of one QEMU.

    Args:
        config: what to run.
        folder: where `console.log` goes.
        qmp_fd: our QMP socket's number in the child.
        incoming: start it waiting for `migrate-incoming`.
    """
    # fmt: off
    argv = [
        str(config.executable),
        "-name", "snapproof,debug-threads=on",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",

        "-machine", config.machine,
        "-accel", config.accel,
        "-m", f"{config.ram_mib}M",
        "-smp", str(config.vcpus),

        "-kernel", str(config.kernel),
        "-initrd", str(config.initrd),
        "-append", config.cmdline,

        "-chardev", f"socket,id=qmp,fd={qmp_fd}",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", f"file,id=console,path={qemu_quoted(folder / 'console.log')},append=on",
        "-serial", "chardev:console",

        # Port 0: the kernel picks one that is free, so two machines can never race for it.
        "-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-{GUEST_ADDRESS}:22",
        "-device", "virtio-net-pci,netdev=net0,romfile=",
        "-device", "virtio-rng-pci",

        # QMP hides why userfaultfd failed; these trace points carry the errno.
        "-trace", "uffd_*",
    ]
    # fmt: on
    if incoming:
        argv += ["-incoming", "defer"]
    return argv + list(config.extra)


def qemu_quoted(path: Path) -> str:
    """A path as the value of a QEMU option list, in which a comma must be doubled."""
    return str(path).replace(",", ",,")
