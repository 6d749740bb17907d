"""Commands to SCSI disks; see SBC-3, READ (10) and WRITE (10), and SPC-4, TEST UNIT READY."""

from __future__ import annotations

import struct

from tests_functional.lib.drivers.disk import Transfer

GOOD = 0
"""Status of a command that was carried out."""

TRIES = 4
"""A disk reports that it was reset to the first command or two (SPC-4, 5.14)."""

TEST_UNIT_READY = bytes(6)
_READ_10, _WRITE_10 = 0x28, 0x2A


def transfer_command(transfer: Transfer) -> bytes:
    """Return the command of a request."""
    operation = _WRITE_10 if transfer.writes else _READ_10
    return struct.pack(">BBIBHB", operation, 0, transfer.sector, 0, transfer.sectors, 0)
