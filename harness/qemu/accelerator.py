"""Probe which accelerator works by booting the guest under KVM; that /dev/kvm exists is not enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import SnapproofError
from harness.linux.kvm import find_kvm
from harness.qemu.configuration import MachineConfig
from harness.qemu.spawned_machine import SpawnedMachine

KVM_BOOT_SECONDS = 12.0
"""A stock kernel boots under working KVM in 1 to 3 s; where KVM is broken it spins for ever."""


@dataclass(frozen=True)
class Accelerator:
    """The accelerator to use, and why.

    Attributes:
        name: `kvm` or `tcg`.
        reason: the result of the probe, one sentence.
    """

    name: str
    reason: str


def probe_accelerator(
    config: MachineConfig,
    ready: Callable[[SpawnedMachine, Deadline], None],
    seconds: float,
    folder: Path,
    bare: bool = False,
) -> Accelerator:
    """Boot the guest under KVM, and return KVM if that works in time, otherwise TCG.

    Args:
        config: the machine to boot; its `accel` is replaced.
        ready: waits until the guest has booted; raises a SnapproofError if it does not in time.
        seconds: time limit for the boot.
        folder: receives the probe's logs.
        bare: whether the guest is one without an operating system.
    """
    kvm = find_kvm()
    if not kvm.usable:
        return Accelerator("tcg", kvm.sentence)
    try:
        with SpawnedMachine(replace(config, accel="kvm"), folder) as machine:
            ready(machine, Deadline(seconds))
    except SnapproofError as error:
        return Accelerator("tcg", kvm_sentence(error.sentence, bare))
    return Accelerator("kvm", "The guest boots under KVM.")


def kvm_sentence(error: str, bare: bool) -> str:
    """Return what to say of a guest that does not boot under KVM.

    Args:
        error: a sentence: what went wrong.
        bare: whether the guest is one without an operating system.
    """
    return f"The guest does not boot under KVM here: {error} {find_kvm().explained(bare)}"
