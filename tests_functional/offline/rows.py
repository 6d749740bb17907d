"""Lists which tests of the stream reader each profile runs."""

from __future__ import annotations

from harness.qemu.migration import MAPPED_RAM
from tests_functional.lib.profile_row import ANY_GUEST, LINUX, PREMERGE, QUICK_GUEST, ProfileRow

_OFFLINE = "offline/test_extract.py:Extraction"
_GONE_AGENT = "offline/test_gone_agent.py:GoneAgent"
_RAM_IMAGES = "offline/test_ram_images.py:RamImages"
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
        "offline.elf-core",
        f"{_OFFLINE}.test_elf_core",
        "crash, drgn and gdb read what --elf writes by address; QEMU's dump-guest-memory is the reference",
        {"ram_mib": 128, "coverage": 0.4},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "offline.elf-core-above-4-gib",
        f"{_OFFLINE}.test_elf_core",
        "the same for RAM on both sides of the hole below 4 GiB",
        {"ram_mib": 5120, "coverage": 0.01},
        seconds=900,
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "offline.containers",
        f"{_CONTAINERS}.test_every_container",
        "users have the stream in qcow2 images, save images of libvirt, volumes and compressed files",
        {"ram_mib": 64, "coverage": 0.2},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "offline.ram-images",
        f"{_RAM_IMAGES}.test_ram_images",
        "other VMMs write guest RAM alone: an ELF core, or a flat file, which is judged by the write order",
        {"ram_mib": 64, "coverage": 0.2, "guest": QUICK_GUEST},
        kinds=ANY_GUEST,
    ),
    ProfileRow(
        "offline.gone-agent",
        f"{_GONE_AGENT}.test_gone",
        "users save a guest whose agent has ended, was killed or was reset with it, and the file is right",
        {"ram_mib": 256, "coverage": 0.4},
        kinds=LINUX,
        why_linux="a process that is killed, and a kernel that uses the memory of others",
    ),
    ProfileRow(
        "offline.gone-agent-bare",
        f"{_GONE_AGENT}.test_gone",
        "the same for a guest without an operating system",
        {"ram_mib": 64, "coverage": 0.2, "guest": QUICK_GUEST},
        profiles=PREMERGE,
        kinds=ANY_GUEST,
    ),
)
