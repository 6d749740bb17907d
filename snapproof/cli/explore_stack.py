"""Prepares QEMU and guest for lists of steps, and refuses those on which no list can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import NotApplicable, UsageError
from harness.qemu.migration import BACKGROUND_SNAPSHOT
from harness.qemu.virtio_driver import can_drive
from harness.userfaultfd import probe_userfaultfd
from snapproof.explore.folder import with_digest
from snapproof.runs.guest_choice import guest_architecture
from snapproof.runs.options import StackOptions
from snapproof.runs.stack import prepare_stack
from tests_functional.lib.guest import Stack
from tests_functional.lib.profile_row import QUICK_GUEST


def prepare_bare(
    options: StackOptions, folder: Path, say: Callable[[str], None]
) -> tuple[StackOptions, Stack, dict[str, Any]]:
    """Return the options with their guest, the stack, and the environment of each result.

    Args:
        options: as given.
        folder: of the logs of probes.
        say: called with a sentence before each slow step.

    Raises:
        UsageError: the guest's processor has no I/O ports, which steps use.
        NotApplicable: the guest or its machine has none, or QEMU cannot take background snapshots.
    """
    options = replace(options, guest=options.guest or QUICK_GUEST)
    architecture = guest_architecture(options)
    if not any(can_drive(architecture, kind.name) for kind in architecture.machines):
        raise UsageError(
            f"Lists of steps play the guest's part through I/O ports, so they are for guests of x86_64, and "
            f"not of {architecture.name}; leave --arch and --guest out."
        )
    stack, environment = prepare_stack(options, folder, say)
    if not stack.image.bare or not can_drive(stack.image.architecture, stack.machine):
        raise NotApplicable(
            "Lists of steps play the guest's part through I/O ports, so they take a bare guest that has "
            f"them, and not '{stack.image.name}' on machine type '{stack.machine}'."
        )
    if stack.capabilities and BACKGROUND_SNAPSHOT not in stack.capabilities:
        raise NotApplicable(
            f"QEMU {environment['qemu']} has no capability '{BACKGROUND_SNAPSHOT}', which came with 6.0: "
            "there is nothing to explore; name another QEMU with --qemu."
        )
    support = probe_userfaultfd()
    if not support.write_protect:
        said = "This host cannot take background snapshots, so there is nothing to explore."
        raise NotApplicable(f"{said} {support.reason}".strip())
    return options, stack, with_digest(environment)
