"""Lists which tests of streams in flight each profile runs."""

from __future__ import annotations

from collections.abc import Mapping

from tests_functional.in_flight.kinds import STREAM_KINDS
from tests_functional.in_flight.planted import PLANTED
from tests_functional.lib.profile_row import ANY_GUEST, QUICK_GUEST, ProfileRow

_IN_FLIGHT = "in_flight/test_in_flight.py:InFlight"

_GUEST: Mapping[str, str | int | float] = {"ram_mib": 128, "coverage": 0.7, "guest": QUICK_GUEST}

ROWS = (
    *(
        ProfileRow(
            f"in-flight.{name}",
            f"{_IN_FLIGHT}.test_stream",
            kind.reason,
            {**_GUEST, "stream": name},
            kinds=ANY_GUEST,
        )
        for name, kind in STREAM_KINDS.items()
    ),
    ProfileRow(
        "in-flight.vmgenid",
        f"{_IN_FLIGHT}.test_generation_id",
        "a guest that is restored twice must see that it is another one, and the source that it is none",
        _GUEST,
        kinds=ANY_GUEST,
    ),
    *(
        ProfileRow(
            f"in-flight.{name}",
            f"{_IN_FLIGHT}.test_planted_faults",
            f"a check of what arrives that cannot fail proves nothing: {', '.join(streams)}",
            {**_GUEST, "planted": name},
            kinds=ANY_GUEST,
        )
        for name, streams in PLANTED.items()
    ),
    ProfileRow(
        "in-flight.planted-vmgenid",
        f"{_IN_FLIGHT}.test_planted_ids",
        "a check of generation IDs that cannot fail proves nothing",
        _GUEST,
        kinds=ANY_GUEST,
    ),
)
