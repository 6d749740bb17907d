"""Lists which tests of snapshots across QEMU versions each profile runs."""

from __future__ import annotations

from guest_images.catalogue import BareSpec, GuestSpec, guests_of_others
from harness.qemu.architectures import DEFAULT_ARCHITECTURE, PPC64LE, Architecture
from tests_functional.lib.profile_row import ANY_GUEST, SMALL, ProfileRow

_VERSIONS = "versions/test_versions.py:Versions"
_MORE_DEVICES = "more devices have a state that versions of QEMU may write differently"

# The usual CPU model of pseries-7.2 is another one in newer QEMUs (docs/findings.md, F22), which the bare
# guests show; with this one the rest of the state is loaded as well.
_SAME_CPU = {PPC64LE: {"cpu": "power9_v2.0"}}


def _linux_of_others() -> tuple[GuestSpec, ...]:
    """Return one Linux guest of each other architecture that has versioned machine types."""
    first: dict[Architecture, GuestSpec] = {}
    for guest in guests_of_others():
        if not isinstance(guest, BareSpec) and guest.architecture.machines[0].versioned:
            first.setdefault(guest.architecture, guest)
    return tuple(first.values())


ROWS = (
    ProfileRow(
        "versions.restored-by-newer",
        f"{_VERSIONS}.test_restored_by_newer",
        "snapshots outlive the QEMU that took them",
        SMALL,
        needs=(),
        kinds=ANY_GUEST,
        why_linux=_MORE_DEVICES,
    ),
    *(
        ProfileRow(
            f"versions.{kind.name}",
            f"{_VERSIONS}.test_restored_by_newer",
            "the same with another chip set, whose devices have other state",
            {**SMALL, "machine": kind.name},
            needs=(),
            kinds=ANY_GUEST,
            why_linux=_MORE_DEVICES,
        )
        for kind in DEFAULT_ARCHITECTURE.machines[1:]
        if kind.versioned
    ),
    *(
        ProfileRow(
            f"versions.{guest.name}",
            f"{_VERSIONS}.test_restored_by_newer",
            f"the same on {guest.architecture.name}, with a CPU model that QEMU keeps",
            {**SMALL, "guest": guest.name},
            kinds=ANY_GUEST,
        )
        for guest in guests_of_others()
        if isinstance(guest, BareSpec)
    ),
    *(
        ProfileRow(
            f"versions.{guest.name}",
            f"{_VERSIONS}.test_restored_by_newer",
            f"Linux on {guest.architecture.name} has virtio devices and timers, which a bare guest has not",
            {**SMALL, "guest": guest.name, **_SAME_CPU.get(guest.architecture, {})},
            # The time-out is twice as long, by `GuestImage.slowness`.
            seconds=450,
            alone=True,
            why_linux=_MORE_DEVICES,
        )
        for guest in _linux_of_others()
    ),
)
