"""Lists which tests of streams in flight each profile runs."""

from __future__ import annotations

from collections.abc import Mapping

from tests_functional.in_flight.kinds import STREAM_KINDS
from tests_functional.lib.profile_row import ANY_GUEST, QUICK_GUEST, ProfileRow

_IN_FLIGHT = "in_flight/test_in_flight.py:InFlight"

_GUEST: Mapping[str, str | int | float] = {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST}

ROWS = tuple(
    ProfileRow(
        f"in-flight.{name}",
        f"{_IN_FLIGHT}.test_stream",
        kind.reason,
        {**_GUEST, "stream": name},
        kinds=ANY_GUEST,
    )
    for name, kind in STREAM_KINDS.items()
)
