"""Rows of the profiles: snapshots that one QEMU takes and newer ones restore."""

from __future__ import annotations

from tests_functional.lib.profile_row import SMALL, ProfileRow

_VERSIONS = "versions/test_versions.py:Versions"

ROWS = (
    ProfileRow(
        "versions.restored-by-newer",
        f"{_VERSIONS}.test_restored_by_newer",
        "snapshots outlive the QEMU that took them",
        SMALL,
        needs=(),
    ),
)
