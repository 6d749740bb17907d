"""Rows of the profiles: failures."""

from __future__ import annotations

from tests_functional.lib.profile_row import PREMERGE, SMALL, ProfileRow

_FAILURES = "failures/test_failures.py:Failures"

_REASONS = {
    "sinks": "a sink that closes, fills, stalls or fails is the commonest end of a snapshot",
    "cancel": "cancelling is the first thing a user does when a snapshot takes too long",
    "descriptors": "each step of a save opens files, and each may find none left",
    "calls": "each call to the kernel can fail, and each is another path through QEMU's clean-up",
    "kill": "whoever restarts QEMU must not take half a file for a snapshot",
}

# Every guest that does not survive a case is booted again.
ROWS = tuple(
    ProfileRow(
        f"failures.{kind}",
        f"{_FAILURES}.test_{kind}",
        reason,
        SMALL,
        seconds=1800,
        profiles=PREMERGE if kind == "cancel" else (),
    )
    for kind, reason in _REASONS.items()
)
