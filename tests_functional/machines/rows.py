"""Lists which machines each profile tests: by the tests of flows, with another machine below the guest."""

from __future__ import annotations

from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from tests_functional.lib.profile_row import ANY_GUEST, UEFI, ProfileRow

_FLOWS = "snapshot/test_flows.py:SnapshotFlows"
_FIRST_VERSION = "6.0"

_USUAL, *_OTHERS = DEFAULT_ARCHITECTURE.machines
_FOR_LINUX = [kind for kind in _OTHERS if kind.pci]

ROWS = (
    *(
        ProfileRow(
            f"machines.{kind.name}",
            f"{_FLOWS}.test_main_job",
            "management layers make this machine: other chip set, other devices, other state",
            {"machine": kind.name},
            kinds=ANY_GUEST,
        )
        for kind in _FOR_LINUX
    ),
    *(
        ProfileRow(
            f"machines.{kind.name}-uefi",
            f"{_FLOWS}.test_main_job",
            "firmware in flash, which is RAM that the guest writes by commands, and no vCPU faults on",
            {"machine": kind.name, "firmware": UEFI},
            seconds=600,
            why_linux="a bare guest does not start from UEFI firmware",
        )
        for kind in _FOR_LINUX
        if kind.uefi
    ),
    *(
        ProfileRow(
            f"machines.{kind.versioned}{_FIRST_VERSION}",
            f"{_FLOWS}.test_main_job",
            "guests keep the machine type that they were made with; this is of the first release with it",
            {"machine": f"{kind.versioned}{_FIRST_VERSION}"},
            kinds=ANY_GUEST,
        )
        for kind in (_USUAL, *_FOR_LINUX)
        if kind.versioned
    ),
    *(
        ProfileRow(
            f"machines.{kind.name}",
            f"{_FLOWS}.test_seeds",
            "a machine without PCI and most other devices, on which only a bare guest boots",
            # Its clock is the processor's counter, which not every KVM restores.
            {"machine": kind.name, "guest": "bare", "ram_mib": 128, "accel": "tcg"},
            seconds=120,
            cycle_seconds=20,
            kinds=ANY_GUEST,
        )
        for kind in _OTHERS
        if not kind.pci
    ),
)
