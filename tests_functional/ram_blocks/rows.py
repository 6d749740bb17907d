"""Lists the machines whose RAM each profile looks at."""

from __future__ import annotations

from collections.abc import Mapping

from guest_images.catalogue import BareSpec, guests_of_others
from harness.qemu.architectures import DEFAULT_ARCHITECTURE
from tests_functional.lib.profile_row import ANY_GUEST, QUICK_GUEST, ProfileRow
from tests_functional.ram_blocks.machines import RAM_MACHINES

_TESTS = "ram_blocks/test_ram_blocks.py:RamBlocks"
_GUEST: Mapping[str, str | int | float] = {"ram_mib": 128, "coverage": 0.7}
_FLASH, _BOARD = "flash", "board"
# A KVM that emulates privileged code does not run code that lies in flash. A machine without a clock of its
# own has that of the processor, which not every KVM restores.
_TCG: Mapping[str, str] = {"accel": "tcg"}


def _row(name: str, blocks: str, **parameters: str) -> ProfileRow:
    return ProfileRow(
        f"ram-blocks.{name}",
        f"{_TESTS}.test_machine",
        RAM_MACHINES[blocks].reason,
        {**_GUEST, "guest": QUICK_GUEST, **parameters, "blocks": blocks},
        kinds=ANY_GUEST,
    )


_, *_OTHERS = DEFAULT_ARCHITECTURE.machines

ROWS = (
    *(_row(name, name) for name in RAM_MACHINES if name not in (_FLASH, _BOARD)),
    *(
        _row(f"{_FLASH}-{kind.name}", _FLASH, machine=kind.name, **_TCG)
        for kind in _OTHERS
        if kind.uefi and kind.config_ports
    ),
    *(_row(f"{_BOARD}-{kind.name}", _BOARD, machine=kind.name, **_TCG) for kind in _OTHERS if not kind.pci),
    *(
        _row(f"{_BOARD}-{guest.name}", _BOARD, guest=guest.name)
        for guest in guests_of_others()
        if isinstance(guest, BareSpec) and guest.architecture.qemu != DEFAULT_ARCHITECTURE.qemu
    ),
    ProfileRow(
        "ram-blocks.device-rom",
        f"{_TESTS}.test_device_rom",
        "a display device writes into its ROM, which is read-only for the guest alone",
        {**_GUEST, "guest": QUICK_GUEST},
        kinds=ANY_GUEST,
    ),
)
