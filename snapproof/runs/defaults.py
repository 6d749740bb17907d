"""Defaults of a run's options that help texts show; the module imports nothing that takes time."""

from __future__ import annotations

from harness.qemu.architectures import DEFAULT_ARCHITECTURE, Architecture

PROFILE_NAMES = ("smoke", "premerge", "nightly", "soak")
"""The values of `--profile`; snapproof.runs.profiles has the tests of each."""

HOST_ACCELERATORS = ("tcg", "kvm")
"""The accelerators of VMs, the default first."""

HOST_GUESTS = ("bare", "default")
"""The guests that `snapproof hosts` has saved on hosts, its default first."""


def own_cmdline(architecture: Architecture = DEFAULT_ARCHITECTURE) -> str:
    """Return the kernel command line of a user's own guest."""
    return f"console={architecture.console} panic=-1 no_timer_check root=/dev/vda"


def example_machine(architecture: Architecture = DEFAULT_ARCHITECTURE) -> str:
    """Return a machine type for examples: the last one that takes UEFI firmware, else the usual one."""
    with_uefi = [kind.name for kind in architecture.machines if kind.uefi]
    return with_uefi[-1] if with_uefi else architecture.machine


OWN_MIB = 256
"""RAM of a user's own guest beside the writers: a full Debian needs 150 MiB, another guest may need more."""

QEMU_ARGUMENTS = "--qemu-args"
"""The option whose value is arguments of another program, which begin with dashes."""
