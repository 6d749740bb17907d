"""Lists which failure tests each profile runs: broken sinks, cancel, descriptors, calls, killed QEMU."""

from __future__ import annotations

from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, SMALL, ProfileRow

_FAILURES = "failures/test_failures.py:Failures"

_REASONS = {
    "sinks": "most failed snapshots are due to a sink that closes, fills, stalls or fails",
    "cancel": "users cancel a snapshot that takes too long",
    "descriptors": "each step of a save opens files, and each can run out of descriptors",
    "calls": "each system call can fail, and each failure takes another path through QEMU's clean-up",
    "kill": "after a restart of QEMU, half a file must not be taken for a snapshot",
}

# Forty saves of 64 MiB show as much as forty of 256 MiB: a call fails by its number, at any size.
_CALLS_RAM_MIB = 64

# A guest that does not survive a case is replaced, which takes time.
ROWS = tuple(
    ProfileRow(
        f"failures.{kind}",
        f"{_FAILURES}.test_{kind}",
        reason,
        SMALL,
        seconds=1800,
        profiles=PREMERGE if kind == "cancel" else (),
        kinds=ANY_GUEST,
        bare_ram_mib=_CALLS_RAM_MIB if kind == "calls" else 0,
    )
    for kind, reason in _REASONS.items()
)
