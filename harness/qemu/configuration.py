"""The configuration of one QEMU, and the command line made from it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from harness.qemu.disk import Disk

MIB = 1 << 20

# The guest's address in QEMU's user-mode network (QEMU net/slirp.c, default).
GUEST_ADDRESS = "10.0.2.15"


DEFAULT_RAM_MIB = 512
"""RAM of a guest unless stated otherwise, in MiB."""


@dataclass(frozen=True)
class Flash:
    """UEFI firmware in two flash devices: the program, and the variables that it and the guest write.

    Attributes:
        name: what results call it.
        code: image of the program, which all QEMUs read.
        variables: image of the variables as they are at first; each QEMU writes to a copy of its own.
    """

    name: str
    code: Path
    variables: Path


@dataclass(frozen=True)
class QemuSettings:
    """The settings of a QEMU that do not depend on what it boots.

    Attributes:
        executable: QEMU, or a program that behaves like it.
        accel: `kvm` or `tcg`.
        ram_mib: guest RAM in MiB.
        vcpus: number of virtual CPUs.
        machine: machine type, as for `-machine`.
        cpu: CPU model, as for `-cpu`; "" for the one that the machine type or the guest's architecture gives.
        extra: further arguments, appended as they are.
        user_arguments: arguments of the user's own, appended last.
        flash: UEFI firmware, None for QEMU's own firmware.
    """

    executable: Path
    accel: str = field(kw_only=True)
    ram_mib: int = field(default=DEFAULT_RAM_MIB, kw_only=True)
    vcpus: int = field(default=1, kw_only=True)
    machine: str = field(default=DEFAULT_ARCHITECTURE.machine, kw_only=True)
    cpu: str = field(default="", kw_only=True)
    extra: tuple[str, ...] = field(default=(), kw_only=True)
    user_arguments: tuple[str, ...] = field(default=(), kw_only=True)
    flash: Flash | None = field(default=None, kw_only=True)

    def settings(self) -> dict[str, Any]:
        """Return these settings by name, without the fields of a subclass."""
        return {one.name: getattr(self, one.name) for one in fields(QemuSettings)}


@dataclass(frozen=True)
class MachineConfig(QemuSettings):
    """The configuration of one QEMU; source and restored guest share it, so that the stream can be loaded.

    Attributes:
        kernel: Linux image for `-kernel`, None if the disk boots by firmware and its own boot loader.
        by_loader: whether `kernel` is an ELF file that the device `loader` puts into RAM in place of
            `-kernel`. `firmware` has to know its entry.
        initrd: initramfs for `-initrd`, None if the kernel needs none.
        cmdline: kernel command line, used with a kernel.
        disk: the guest's disk at the start; the machine writes only to an overlay of its own.
        firmware: image for `-bios`, None for QEMU's own.
        virtio: whether it has a network with a way to the guest's SSH, and a source of random numbers.
    """

    kernel: Path | None
    initrd: Path | None
    cmdline: str
    disk: Disk | None = None
    firmware: Path | None = None
    virtio: bool = True
    by_loader: bool = False


def type_of(machine: str) -> str:
    """Return the machine type in a value of `-machine`, without its properties."""
    return machine.partition(",")[0]


def with_type(machine: str, name: str) -> str:
    """Return a value of `-machine` with another machine type and the same properties."""
    _, comma, properties = machine.partition(",")
    return f"{name}{comma}{properties}"


QEMU_LOG = "qemu.log"
"""File name of QEMU's own output."""

OVERLAY_FILE = "disk.qcow2"
"""File name of the overlay that takes the guest's writes to its disk; deleted when the machine ends."""


VARIABLES_FILE = "uefi-variables.fd"
"""File name of the copy of the UEFI variables that one QEMU writes to; deleted when the machine ends."""


def qemu_argv(
    config: MachineConfig, folder: Path, qmp_fd: int | str, ssh_address: str, incoming: bool
) -> list[str]:
    """Return the command line of one QEMU.

    Args:
        config: what to run.
        folder: receives `console.log`, and has the disk's overlay and the copy of the UEFI variables.
        qmp_fd: number of our QMP socket in the child.
        ssh_address: loopback address to forward to the guest's SSH server.
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
        *_flash(config, folder),

        "-chardev", f"socket,id=qmp,fd={qmp_fd}",
        "-mon", "chardev=qmp,mode=control",
        "-chardev", f"file,id=console,path={qemu_quoted(folder / 'console.log')},append=on",
        "-serial", "chardev:console",

        *(_virtio(ssh_address) if config.virtio else ()),
        *_disk(config, folder),

        # QMP does not report why userfaultfd failed; these trace points show the errno.
        "-trace", "uffd_*",
    ]
    # fmt: on
    if incoming:
        argv += ["-incoming", "defer"]
    # Of several `-cpu` QEMU takes the last, and `extra` may have the architecture's.
    cpu = ["-cpu", config.cpu] if config.cpu else []
    return [*argv, *config.extra, *cpu, *config.user_arguments]


def _boot(config: MachineConfig) -> list[str]:
    firmware = ["-bios", str(config.firmware)] if config.firmware else []
    if config.kernel is None:
        return firmware
    if config.by_loader:
        return [*firmware, "-device", f"loader,file={qemu_quoted(config.kernel)}"]
    initrd = ["-initrd", str(config.initrd)] if config.initrd else []
    return [*firmware, "-kernel", str(config.kernel), *initrd, "-append", config.cmdline]


def _flash(config: MachineConfig, folder: Path) -> list[str]:
    if config.flash is None:
        return []
    code, variables = qemu_quoted(config.flash.code), qemu_quoted(folder / VARIABLES_FILE)
    return [
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
    ]


def _virtio(ssh_address: str) -> list[str]:
    return [
        # Port 0: the kernel picks a free port (docs/decisions/016-ssh-at-a-loopback-address.md).
        *("-netdev", f"user,id=net0,restrict=on,hostfwd=tcp:{ssh_address}:0-{GUEST_ADDRESS}:22"),
        # Names without a bus: QEMU takes the one of the machine (system/qdev-monitor.c, qdev_alias_table).
        *("-device", "virtio-net,netdev=net0"),
        *("-global", "virtio-net-pci.romfile="),
        *("-device", "virtio-rng"),
    ]


def _disk(config: MachineConfig, folder: Path) -> list[str]:
    if config.disk is None:
        return []
    overlay = qemu_quoted(folder / OVERLAY_FILE)
    return [
        *("-drive", f"file={overlay},format=qcow2,if=none,id=guest-disk,discard=unmap"),
        *("-device", "virtio-blk,id=guest-disk,drive=guest-disk,bootindex=1"),
    ]


def qemu_quoted(path: Path) -> str:
    """Quote a path as a value in a QEMU option list, where a comma must be doubled."""
    return str(path).replace(",", ",,")
