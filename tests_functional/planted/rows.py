"""Lists which planted faults each profile runs; a green run of any other test relies on them."""

from __future__ import annotations

from tests_functional.lib.profile_row import ANY_GUEST, LINUX, PREMERGE, ProfileRow
from tests_functional.planted.live_faults import LIVE_FAULTS

_PLANTED = "planted/test_planted_faults.py:PlantedFaults.test_fault"
_IN_PREMERGE = ("drop_protection", "lose_events")

ROWS = tuple(
    ProfileRow(
        f"planted.{fault.replace('_', '-')}",
        _PLANTED,
        planted.reason,
        {"fault": fault},
        profiles=PREMERGE if fault in _IN_PREMERGE else (),
        # Memory that was never touched is written by the guest's kernel.
        kinds=LINUX if fault == "forget_untouched" else ANY_GUEST,
    )
    for fault, planted in LIVE_FAULTS.items()
)
