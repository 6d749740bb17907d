"""Lists which tests of foreign writers each profile runs."""

from __future__ import annotations

from collections.abc import Mapping

from tests_functional.foreign_writers.kinds import WRITER_KINDS
from tests_functional.lib.profile_row import ANY_GUEST, QUICK_GUEST, ProfileRow

_WRITERS = "foreign_writers/test_foreign_writers.py:ForeignWriters"

_GUEST: Mapping[str, str | int | float] = {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST}

ROWS = (
    *(
        ProfileRow(
            f"foreign-writers.{name}",
            f"{_WRITERS}.test_writer",
            kind.reason,
            {**_GUEST, "writer": name},
            kinds=ANY_GUEST,
        )
        for name, kind in WRITER_KINDS.items()
    ),
    ProfileRow(
        "foreign-writers.firmware-tables",
        f"{_WRITERS}.test_firmware_tables",
        "QEMU itself writes to RAMBlocks that are read-only for the guest, and are not protected",
        _GUEST,
        kinds=ANY_GUEST,
    ),
)
