"""Reads the log that QEMU's block driver `blklogwrites` keeps of all writes that reach an image.

See QEMU 10.0 block/blklogwrites.c, which writes the format of dm-log-writes (Linux 6.12,
drivers/md/dm-log-writes.c).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from harness.errors import SetupBroken

_MAGIC, _VERSION = 0x6A736677736872, 1
_SUPER, _ENTRY = "<QQQI", "<QQQQ"
_HEAD_BYTES = struct.calcsize(_SUPER)
# An entry without data: a flush, or a discard of blocks.
_NO_DATA = 1 << 0 | 1 << 2


@dataclass(frozen=True)
class LoggedWrite:
    """A write.

    Attributes:
        at: place in the image, in bytes.
        data: what was written.
    """

    at: int
    data: bytes


def log_node(image: dict[str, object], log: Path, sector_bytes: int) -> dict[str, object]:
    """Return a block node that logs the writes to an image.

    Args:
        image: the image's node.
        log: the log, an empty file.
        sector_bytes: its unit, and that of places in the image.
    """
    return {
        "driver": "blklogwrites",
        "file": image,
        "log": {"driver": "file", "filename": str(log)},
        "log-sector-size": sector_bytes,
        # How many writes the log's head, with their number, may be behind.
        "log-super-update-interval": 1,
    }


def logged_writes(log: Path) -> list[LoggedWrite]:
    """Return the writes in a log, in their order.

    Raises:
        SetupBroken: the file is no such log.
    """
    data = log.read_bytes()
    # QEMU writes the head before it says that the first write is done.
    if not any(data[:_HEAD_BYTES]):
        return []
    magic, version, count, sector = struct.unpack_from(_SUPER, data)
    if (magic, version) != (_MAGIC, _VERSION):
        raise SetupBroken(f"QEMU's log of writes '{log.name}' has another format than version {_VERSION}.")
    found, at = [], sector
    for _ in range(count):
        place, sectors, flags, _ = struct.unpack_from(_ENTRY, data, at)
        at += sector
        if flags & _NO_DATA:
            continue
        size = sectors * sector
        found.append(LoggedWrite(place * sector, data[at : at + size]))
        at += size
    return found
