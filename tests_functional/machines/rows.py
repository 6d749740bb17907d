"""Lists which machines each profile tests: one by one with the tests of flows, and all that a QEMU has."""

from __future__ import annotations

from guest_images.catalogue import BareSpec, guests_of_others
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from tests_functional.lib.profile_row import ANY_GUEST, UEFI, ProfileRow

_FLOWS = "snapshot/test_flows.py:SnapshotFlows"
_EVERY_VERSION = "machines/test_machines.py:Machines.test_every_version"
_FIRST_VERSION = "6.0"

_USUAL, *_OTHERS = DEFAULT_ARCHITECTURE.machines
_FOR_LINUX = [kind for kind in _OTHERS if kind.pci]


def _bare_of_other_qemus() -> tuple[BareSpec, ...]:
    """Return one bare guest for each further QEMU program that has versioned machine types."""
    first: dict[str, BareSpec] = {}
    for guest in guests_of_others():
        architecture = guest.architecture
        other = architecture.qemu != DEFAULT_ARCHITECTURE.qemu
        if isinstance(guest, BareSpec) and other and architecture.machines[0].versioned:
            first.setdefault(architecture.qemu, guest)
    return tuple(first.values())


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
    ProfileRow(
        "machines.every-version",
        _EVERY_VERSION,
        "guests keep the machine type that they were made with for years; each type has other state",
        {"guest": "bare", "ram_mib": 128},
        # QEMU 7.2 has 55 of them; 3 s each, and 10 s beside other tests.
        seconds=1800,
        cycle_seconds=0,
        kinds=ANY_GUEST,
    ),
    *(
        ProfileRow(
            f"machines.every-version-{guest.name}",
            _EVERY_VERSION,
            f"the same on {guest.architecture.name}",
            {"guest": guest.name, "ram_mib": 128},
            seconds=1800,
            cycle_seconds=0,
            kinds=ANY_GUEST,
        )
        for guest in _bare_of_other_qemus()
    ),
)
