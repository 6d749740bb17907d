"""Lists which planted faults each profile runs; a green run of any other test relies on them."""

from __future__ import annotations

from tests_functional.lib.profile_row import ANY_GUEST, LINUX, PREMERGE, ProfileRow
from tests_functional.planted.live_faults import LIVE_FAULTS

_PLANTED = "planted/test_planted_faults.py:PlantedFaults.test_fault"
_IN_PREMERGE = ("drop_protection", "lose_events")

# In a bare guest nobody writes to memory that was never touched. And its only writer waits for a page whose
# event is lost; QEMU goes on behind the last page that it was asked for, and comes to that page soon.
_NEED_LINUX = ("forget_untouched", "lose_events")

ROWS = tuple(
    ProfileRow(
        f"planted.{fault.replace('_', '-')}",
        _PLANTED,
        planted.reason,
        {"fault": fault},
        profiles=PREMERGE if fault in _IN_PREMERGE else (),
        kinds=LINUX if fault in _NEED_LINUX else ANY_GUEST,
    )
    for fault, planted in LIVE_FAULTS.items()
)
