"""Rows of the profiles: the stream reader against QEMU's own loader."""

from __future__ import annotations

from harness.qemu.migration import MAPPED_RAM
from tests_functional.lib.profile_row import PREMERGE, ProfileRow

_OFFLINE = "offline/test_extract.py:Extraction"

ROWS = (
    ProfileRow(
        "offline.extract-plain",
        f"{_OFFLINE}.test_plain",
        "a reader that misplaced pages would judge the wrong ones; QEMU's own loader is the measure",
        profiles=PREMERGE,
    ),
    ProfileRow(
        "offline.extract-mapped-ram",
        f"{_OFFLINE}.test_mapped_ram",
        "the same for the layout with fixed offsets",
        needs=(MAPPED_RAM,),
        profiles=PREMERGE,
    ),
)
