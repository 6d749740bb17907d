"""Commands to SCSI disks that read marked blocks; see SBC-3, READ (10), and SPC-4, TEST UNIT READY."""

from __future__ import annotations

import struct

from harness.qemu.architectures import TARGET_PAGE_BYTES

SECTOR_BYTES = 512
GOOD = 0
"""Status of a command that was carried out."""

TEST_UNIT_READY = bytes(6)
_READ_10 = 0x28


def read_command(first_page: int, pages: int) -> bytes:
    """Return the command that reads pages of a disk.

    Args:
        first_page: the number of the first one.
        pages: how many.
    """
    sectors = TARGET_PAGE_BYTES // SECTOR_BYTES
    return struct.pack(">BBIBHB", _READ_10, 0, first_page * sectors, 0, pages * sectors, 0)
