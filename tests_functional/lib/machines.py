"""Says what results record of the machine of a guest, and why a guest cannot boot on one."""

from __future__ import annotations

import shlex

from harness.qemu.configuration import type_of
from tests_functional.lib.guest import Stack

# Where a machine type has no PCI of itself, this property gives it one (QEMU 10.0 hw/i386/microvm.c).
_GIVES_PCI = "pcie=on"


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
    return ""


def machine_environment(stack: Stack) -> dict[str, str]:
    """Return what a result's environment records of the machine: its type, and what the user has given."""
    given = {"cpu": stack.cpu, "qemu_args": shlex.join(stack.user_arguments)}
    return {"machine": stack.machine, **{name: value for name, value in given.items() if value}}
