"""Lists which tests of snapshots across QEMU versions each profile runs."""

from __future__ import annotations

from guest_images.catalogue import BareSpec, guests_of_others
from tests_functional.lib.profile_row import ANY_GUEST, SMALL, ProfileRow

_VERSIONS = "versions/test_versions.py:Versions"

ROWS = (
    ProfileRow(
        "versions.restored-by-newer",
        f"{_VERSIONS}.test_restored_by_newer",
        "snapshots outlive the QEMU that took them",
        SMALL,
        needs=(),
        kinds=ANY_GUEST,
        why_linux="more devices have a state that versions of QEMU may write differently",
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
)
