"""Tells what kind of KVM this host has, which decides what guests can run under it."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DEVICE = Path("/dev/kvm")
_MODULES = Path("/sys/module")
# linux/kvm.h: KVM_CHECK_EXTENSION, _IO(KVMIO, 0x03)
_CHECK_EXTENSION = 0xAE03
_CPUINFO = Path("/proc/cpuinfo")


class KvmKind(StrEnum):
    """What stands behind /dev/kvm.

    Attributes:
        NONE: there is no /dev/kvm.
        REFUSED: this process may not open it.
        PVM: the module kvm_pvm, which uses no virtualization of the processor (LKML, "KVM: x86/PVM:
            Introduce a new hypervisor", February 2024).
        NESTED: the processor's virtualization, handed on by a hypervisor that this host runs under.
        FULL: the processor's virtualization.
        UNKNOWN: none of the modules known here.
    """

    NONE = "none"
    REFUSED = "refused"
    PVM = "PVM"
    NESTED = "nested"
    FULL = "full"
    UNKNOWN = "unknown"


_SENTENCES = {
    KvmKind.NONE: "There is no /dev/kvm, so guests run under TCG; if the processor has virtualization, load "
    "kvm_intel or kvm_amd on x86, or start the kernel in EL2 on arm64.",
    KvmKind.REFUSED: "/dev/kvm cannot be opened for reading and writing, so guests run under TCG; join its "
    "group to change that.",
    KvmKind.PVM: "KVM here is PVM (module kvm_pvm): guests run without the processor's virtualization.",
    KvmKind.NESTED: "KVM here is nested: this host is a virtual machine itself, so times under KVM depend on "
    "the hypervisor below.",
    KvmKind.FULL: "KVM uses the processor's own virtualization.",
    KvmKind.UNKNOWN: "/dev/kvm can be opened; which kind of KVM it is cannot be told.",
}

# What boots under a PVM, by whether the guest is a bare one.
_PVM_BOOTS = {
    False: "A Linux guest boots under it only if its kernel is built for PVM.",
    True: "A bare guest runs under it in 64-bit mode alone.",
}


@dataclass(frozen=True)
class Kvm:
    """The KVM of this host.

    Attributes:
        kind: what stands behind /dev/kvm.
    """

    kind: KvmKind

    @property
    def usable(self) -> bool:
        """Return whether this process can open it."""
        return self.kind not in (KvmKind.NONE, KvmKind.REFUSED)

    @property
    def sentence(self) -> str:
        """Return one sentence about it for a person."""
        return _SENTENCES[self.kind]

    def explained(self, bare: bool) -> str:
        """Return what a person should know of it whose guest, bare or with Linux, does not boot under it."""
        more = f" {_PVM_BOOTS[bare]}" if self.kind is KvmKind.PVM else ""
        return self.sentence + more


def find_kvm(device: Path = DEVICE, modules: Path = _MODULES, cpuinfo: Path = _CPUINFO) -> Kvm:
    """Return the KVM of this host.

    Whether a guest boots under it is known only after a try.

    Args:
        device: KVM's device.
        modules: the folder with one folder for each module of the kernel, also for a built-in one.
        cpuinfo: the processor's flags, as in proc_cpuinfo(5).
    """
    if not device.exists():
        return Kvm(KvmKind.NONE)
    if not os.access(device, os.R_OK | os.W_OK):
        return Kvm(KvmKind.REFUSED)
    if any((modules / name).exists() for name in ("kvm_intel", "kvm_amd")):
        return Kvm(KvmKind.NESTED if "hypervisor" in _flags(cpuinfo) else KvmKind.FULL)
    return Kvm(KvmKind.PVM if (modules / "kvm_pvm").exists() else KvmKind.UNKNOWN)


def kvm_extension(number: int, device: Path = DEVICE) -> int:
    """Return what KVM says of an extension: 0 where it has none, or cannot be asked."""
    try:
        with device.open("rb", buffering=0) as kvm:
            return fcntl.ioctl(kvm, _CHECK_EXTENSION, number)
    except OSError:
        return 0


def _flags(cpuinfo: Path) -> frozenset[str]:
    """Return the flags of the first processor, none if they cannot be read."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    return frozenset(next(found, ()))
