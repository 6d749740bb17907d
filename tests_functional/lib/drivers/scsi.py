"""Commands to SCSI disks; see SBC-3, READ (10) and WRITE (10), and SPC-4, TEST UNIT READY."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection

from harness.qemu.machine import Machine
from tests_functional.lib.drivers.disk import DiskDriver, RequestFailed, Transfer, carry_out
from tests_functional.lib.patience import patient

GOOD = 0
"""Status of a command that was carried out."""

CHUNK_BYTES = 128 << 10
"""Bytes that a disk transfers at a time behind a controller that does not hand it a list of pieces of RAM.

See QEMU 10.0 hw/scsi/scsi-disk.c, SCSI_DMA_BUF_SIZE.
"""

CHECK_CONDITION, BUSY = 2, 8
"""Statuses of a disk that was reset, and of one that takes no command now (SAM-5, 5.3.1)."""

TEST_UNIT_READY = bytes(6)
_READ_10, _WRITE_10 = 0x28, 0x2A
# A disk reports that it was reset to the first command or two (SPC-4, 5.14).
_TRIES = 4


def transfer_command(transfer: Transfer) -> bytes:
    """Return the command of a request."""
    operation = _WRITE_10 if transfer.writes else _READ_10
    return struct.pack(">BBIBHB", operation, 0, transfer.sector, 0, transfer.sectors, 0)


def get_ready(
    driver: DiskDriver,
    ask: Callable[[], int],
    what: str,
    machine: Machine,
    not_ready: Collection[int] = (CHECK_CONDITION, BUSY),
) -> None:
    """Ask a disk whether it is ready until it is.

    Args:
        driver: the disk's.
        ask: puts a TEST UNIT READY, and returns the request's number.
        what: names the disk in an error.
        machine: the disk's.
        not_ready: statuses by which its controller says that the disk is not ready; any other is an error.

    Raises:
        SetupBroken: it does not get ready, or the controller reports something else.
    """
    with patient(machine) as deadline:
        for attempt in range(_TRIES):
            request = ask()
            try:
                carry_out(driver, [request], what, deadline)
                return
            except RequestFailed as error:
                if error.answered not in not_ready or attempt == _TRIES - 1:
                    raise
