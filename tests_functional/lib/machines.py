"""Says what results record of the machine of a guest, and why a guest cannot boot on one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from guest_images.guests.image import GuestImage
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.configuration import Flash, type_of
from tests_functional.lib.guest import Stack

UEFI_OWN_MIB = 8
"""RAM that UEFI firmware keeps beside what a guest needs, in MiB: 6 were measured of 512 (OVMF 2025.02)."""

UEFI_BOOT_SECONDS = 90.0
"""What UEFI firmware adds to the limit of a guest's boot."""

# Where a machine type has no PCI of itself, this property gives it one (QEMU 10.0 hw/i386/microvm.c).
_GIVES_PCI = "pcie=on"
# This one takes the clock that a bare guest uses (guest_images/agent/bare/x86/processor.c).
_NO_CLOCK = "hpet=off"


def with_guest(stack: Stack, image: GuestImage, emulators: Mapping[str, Path]) -> Stack:
    """Return the stack with another guest; one of another architecture gets its QEMU and its usual machine.

    What the user says of machine, CPU model and firmware is for the run's own guest.

    Args:
        stack: the run's.
        image: the guest.
        emulators: QEMUs of other architectures, by the program's name.
    """
    architecture, own = image.architecture, stack.image.architecture
    if architecture == own:
        return replace(stack, image=image)
    executable, accel = stack.executable, stack.accel
    if architecture.qemu != own.qemu:
        executable, accel = emulators[architecture.qemu], "tcg"
    usual = replace(stack, machine=architecture.machine, cpu="", user_arguments=(), flash=None)
    return replace(usual, executable=executable, accel=accel, image=image)


def why_not_on(stack: Stack) -> str:
    """Return why the stack's guest cannot boot on its machine as a sentence, "" if it may."""
    image, name = stack.image, type_of(stack.machine)
    kind = image.architecture.machine_type(name)
    if kind is None:
        known = [
            word
            for one in image.architecture.machines
            for word in (one.name, *([f"{one.versioned}VERSION"] if one.versioned else ()))
        ]
        return (
            f"snapproof does not know how a guest boots on machine type '{name}' of "
            f"{image.architecture.name}; it knows {', '.join(known)}."
        )
    if not (image.bare or kind.pci or _GIVES_PCI in stack.machine.split(",")):
        return (
            f"Machine type '{name}' has no PCI, which the network card and the disk of the guest "
            f"'{image.name}' need; take a bare guest (--guest bare)."
        )
    if image.kernel is None and not (kind.boots_disks or stack.flash):
        other = "--firmware uefi, or " if kind.uefi else ""
        return (
            f"Machine type '{name}' of {image.architecture.name} has no firmware that boots a disk; add "
            f"{other}--kernel and --initrd."
        )
    if not kind.has_usual_pages(name):
        return (
            f"Machine type '{name}' has target pages of another size than {TARGET_PAGE_BYTES} bytes, the "
            "size of the agent's pages."
        )
    if stack.flash and image.bare:
        return f"The bare guest '{image.name}' does not start from UEFI firmware; take a Linux guest."
    if stack.flash and not kind.uefi:
        return f"Machine type '{name}' has no flash for UEFI firmware; leave --firmware out."
    return ""


def relies_on_counter(stack: Stack) -> bool:
    """Return whether the clock of the stack's guest is the processor's counter, for want of another."""
    kind = stack.image.architecture.machine_type(type_of(stack.machine))
    no_clock = kind is not None and not kind.clock
    return stack.image.bare and (no_clock or _NO_CLOCK in stack.machine.split(","))


def with_uefi_needs(image: GuestImage) -> GuestImage:
    """Return a guest that has more RAM and more time for its boot, as UEFI firmware needs."""
    own_mib, boot_seconds = image.own_mib + UEFI_OWN_MIB, image.boot_seconds + UEFI_BOOT_SECONDS
    return replace(image, own_mib=own_mib, boot_seconds=boot_seconds)


def with_flash(stack: Stack, flash: Flash) -> Stack:
    """Return the stack with UEFI firmware, and with as much RAM as it needs for that."""
    if stack.flash is None:
        stack = replace(stack, image=with_uefi_needs(stack.image))
    return replace(stack, flash=flash).fitted()


def machine_environment(stack: Stack) -> dict[str, str]:
    """Return what a result's environment records of the machine: its type, and what the user has given."""
    firmware = stack.flash.name if stack.flash else ""
    given = {"cpu": stack.cpu, "firmware": firmware, "qemu_args": shlex.join(stack.user_arguments)}
    return {"machine": stack.machine, **{name: value for name, value in given.items() if value}}
