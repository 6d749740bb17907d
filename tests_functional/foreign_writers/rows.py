"""Lists which tests of foreign writers each profile runs."""

from __future__ import annotations

from tests_functional.foreign_writers.kinds import WRITER_KINDS
from tests_functional.lib.profile_row import ANY_GUEST, QUICK_GUEST, ProfileRow

_WRITERS = "foreign_writers/test_foreign_writers.py:ForeignWriters"

ROWS = tuple(
    ProfileRow(
        f"foreign-writers.{name}",
        f"{_WRITERS}.test_writer",
        kind.reason,
        {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST, "writer": name},
        kinds=ANY_GUEST,
    )
    for name, kind in WRITER_KINDS.items()
)
