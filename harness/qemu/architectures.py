"""Processor architectures of guests and hosts: all that QEMU, Debian and Linux call by another name on each.

A new architecture is an entry here and in `guest_images/catalogue.py`; no other file names one.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import UsageError


@dataclass(frozen=True)
class Architecture:
    """One processor architecture.

    Attributes:
        name: what `uname -m` and compilers call it.
        debian: what Debian's archive calls it.
        qemu: the QEMU program that emulates it.
        qemu_packages: Debian packages of that program. Firmware is among them although the program depends
            on it, since a missing network boot ROM shows only when a device is added.
        machine: QEMU's machine type where none is asked for; it has PCI.
        machine_arguments: further arguments for QEMU that a Linux of today needs on that machine.
        console: Linux's device of the machine's serial port.
        kernel_package: Debian's metapackage of the newest kernel for virtual machines.
        kernel_file: beginning of the name of the kernel image in Debian's packages.
        linux_folder: its folder below `arch/` in Linux's source.
        linux_image: what `make` builds for `-kernel`, in the folder `boot` of `linux_folder`.
        triplet: the folder below `lib` and `usr/lib` that holds its libraries.
        loader: file name of its dynamic loader.
        loader_folder: where programs expect the loader, without a slash at the beginning.
        compiler_target: the target of a C compiler that links programs for its Linux statically.
    """

    name: str
    debian: str
    qemu: str
    qemu_packages: tuple[str, ...]
    machine: str
    console: str
    kernel_package: str
    linux_folder: str
    linux_image: str
    triplet: str
    loader: str
    loader_folder: str
    compiler_target: str
    kernel_file: str = "vmlinuz"
    machine_arguments: tuple[str, ...] = ()


X86_64 = Architecture(
    name="x86_64",
    debian="amd64",
    qemu="qemu-system-x86_64",
    qemu_packages=("qemu-system-x86", "seabios", "ipxe-qemu"),
    machine="pc",
    console="ttyS0",
    kernel_package="linux-image-cloud-amd64",
    linux_folder="x86",
    linux_image="bzImage",
    triplet="x86_64-linux-gnu",
    loader="ld-linux-x86-64.so.2",
    loader_folder="lib64",
    compiler_target="x86_64-linux-musl",
)

I386 = Architecture(
    name="i386",
    debian="i386",
    # It runs 32-bit kernels as well, and is the build that every host of ours has.
    qemu="qemu-system-x86_64",
    qemu_packages=("qemu-system-x86", "seabios", "ipxe-qemu"),
    machine="pc",
    console="ttyS0",
    kernel_package="linux-image-686",
    linux_folder="x86",
    linux_image="bzImage",
    triplet="i386-linux-gnu",
    loader="ld-linux.so.2",
    loader_folder="lib",
    compiler_target="x86-linux-musl",
)

AARCH64 = Architecture(
    name="aarch64",
    debian="arm64",
    qemu="qemu-system-aarch64",
    qemu_packages=("qemu-system-arm", "ipxe-qemu"),
    machine="virt",
    # The default CPU of this machine type is a 32-bit one (QEMU hw/arm/virt.c).
    machine_arguments=("-cpu", "max"),
    console="ttyAMA0",
    kernel_package="linux-image-cloud-arm64",
    linux_folder="arm64",
    linux_image="Image",
    triplet="aarch64-linux-gnu",
    loader="ld-linux-aarch64.so.1",
    loader_folder="lib",
    compiler_target="aarch64-linux-musl",
)

ARCHITECTURES = (X86_64, I386, AARCH64)

DEFAULT_ARCHITECTURE = X86_64
"""The architecture of guests and QEMU programs where nobody names one."""


def find_architecture(name: str) -> Architecture:
    """Return the architecture of that name.

    Raises:
        UsageError: there is none.
    """
    for entry in ARCHITECTURES:
        if entry.name == name:
            return entry
    known = ", ".join(f"'{entry.name}'" for entry in ARCHITECTURES)
    raise UsageError(f"There is no architecture '{name}' here, only {known}.")
