"""Lists which tests of the stream reader each profile runs."""

from __future__ import annotations

from harness.qemu.migration import MAPPED_RAM
from tests_functional.lib.profile_row import ANY_GUEST, PREMERGE, ProfileRow

_OFFLINE = "offline/test_extract.py:Extraction"
_CONTAINERS = "offline/test_containers.py:Containers"

ROWS = (
    ProfileRow(
        "offline.extract-plain",
        f"{_OFFLINE}.test_plain",
        "a reader that misplaces pages judges the wrong ones; QEMU's own loader is the reference",
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "offline.extract-mapped-ram",
        f"{_OFFLINE}.test_mapped_ram",
        "the same for the layout with fixed offsets",
        needs=(MAPPED_RAM,),
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "offline.containers",
        f"{_CONTAINERS}.test_every_container",
        "users have the stream in qcow2 images, save images of libvirt, volumes and compressed files",
        {"ram_mib": 64, "coverage": 0.2},
        kinds=ANY_GUEST,
    ),
)
