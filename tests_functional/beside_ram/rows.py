"""Lists which tests of state beside RAM each profile runs."""

from __future__ import annotations

from guest_images.catalogue import BARE_GUESTS, BareSpec
from tests_functional.beside_ram.kinds import STATE_KINDS, guests_with
from tests_functional.lib.profile_row import ANY_GUEST, QUICK_GUEST, ProfileRow

_BESIDE_RAM = "beside_ram/test_beside_ram.py:BesideRam"


def _of_each_qemu() -> tuple[BareSpec, ...]:
    """Return one bare guest for each QEMU program."""
    first: dict[str, BareSpec] = {}
    for guest in BARE_GUESTS:
        first.setdefault(guest.architecture.qemu, guest)
    return tuple(first.values())


ROWS = (
    *(
        ProfileRow(
            f"beside-ram.{name}" if number == 0 else f"beside-ram.{name}-{guest.name}",
            f"{_BESIDE_RAM}.test_state",
            kind.reason,
            {"ram_mib": 128, "coverage": 0.7, "guest": guest.name, "state": name},
            kinds=ANY_GUEST,
        )
        for name, kind in STATE_KINDS.items()
        for number, guest in enumerate(guests_with(name))
    ),
    ProfileRow(
        "beside-ram.dirty-bitmaps",
        f"{_BESIDE_RAM}.test_dirty_bitmaps",
        "incremental backups depend on bitmaps of what a disk was written, which QEMU has beside RAM",
        {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "beside-ram.block-capability",
        f"{_BESIDE_RAM}.test_block_capability",
        "the capability `block` saves disks by an iterable handler, while the guest runs (F50)",
        {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "beside-ram.tpm",
        f"{_BESIDE_RAM}.test_external_tpm",
        "an emulated TPM is another process, from which QEMU gets the state to save",
        {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST},
        kinds=ANY_GUEST,
    ),
    *(
        ProfileRow(
            f"beside-ram.sections-{guest.architecture.qemu.rpartition('-')[2]}",
            f"{_BESIDE_RAM}.test_sections",
            "a handler that is new in QEMU would have state that no test looks at",
            {"ram_mib": 256, "guest": guest.name, "accel": "tcg"},
            # QEMU for Arm has about a hundred machine types.
            seconds=1200,
            cycle_seconds=0,
            needs=(),
            kinds=ANY_GUEST,
        )
        for guest in _of_each_qemu()
    ),
)
