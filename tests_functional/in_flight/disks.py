"""The disk of a guest with requests in flight: an image of numbered sectors behind a throttle.

A throttle keeps requests back until QEMU stops the guest, which waits for all of them (QEMU 10.0
system/cpus.c do_vm_stop(), bdrv_drain_all()). A request that fails meanwhile is kept by the device with
`rerror=stop` and `werror=stop`, is in its state in the file, and is tried again when the guest goes on.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_functional.in_flight.stream import FarEnd
from tests_functional.in_flight.write_log import log_node, logged_writes
from tests_functional.lib.drivers.disk import SECTOR_BYTES, Piece, Transfer

LONG = (64 << 10, 256 << 10, 128 << 10)
"""Bytes of long requests, by number.

The first one that waits at T0 has 256 KiB. Those that pass a throttle that was just closed have no more than
a SCSI disk transfers at a time (`scsi.CHUNK_BYTES`): it lets no second part of a request pass.
"""

PIECES = 3
"""Pieces of guest RAM that the data of a long request lie in, where its bus can have several."""

BUS_PATH = "/machine/peripheral/flight-bus"
"""QOM path of the device that the disk is attached to, where that is another one."""
DISK_PATH = "/machine/peripheral/flight-disk"
"""QOM path of the device that is the disk."""

PASSING = 2
"""How many requests a throttle that was just closed lets pass: one to read and one to write."""

_NODE = "flight-image"
_BYTES_PER_SECOND = 1
# QEMU forgets what waits if there is no limit any more; with another one it looks at it again.
_NO_LIMIT = 1 << 40
_SNAPSHOTS = 4
_SHORT = (TARGET_PAGE_BYTES,)
# A request of several pieces begins in the middle of a page, has this much of it, and ends before the same
# place of another page.
_HEAD_BYTES = 3072


@dataclass(frozen=True)
class Plan:
    """Which requests a stream has in flight at T0.

    Attributes:
        counts: of the requests around one snapshot.
        told: of those in flight, the first ones that the device is told of before T0.
        serial: whether the device works on one at a time, so that the others wait in it at T0.
        fails: whether the last of these fails while QEMU stops the guest.
        last_reads: whether that one reads from the disk; else it writes. Every second request writes.
        sizes: bytes of each request, by its number in turn.
        pieces: of guest RAM that the data of one lie in, 1 or PIECES.
    """

    counts: Counts
    told: int
    serial: bool = False
    fails: bool = False
    last_reads: bool = False
    sizes: Sequence[int] = _SHORT
    pieces: int = 1

    @property
    def disk_bytes(self) -> int:
        """Return the size of a disk with a place for each request."""
        return self.counts.total * _SNAPSHOTS * max(self.sizes)

    def sectors(self, number: int) -> range:
        """Return the sectors that a request reads or writes; no two have any in common."""
        first = number * max(self.sizes) // SECTOR_BYTES
        return range(first, first + self.sizes[number % len(self.sizes)] // SECTOR_BYTES)

    def number(self, sector: int) -> int:
        """Return the request that reads or writes a sector, -1 for none."""
        number = sector * SECTOR_BYTES // max(self.sizes)
        return number if sector in self.sectors(number) else -1

    @property
    def room_bytes(self) -> int:
        """Return the guest RAM that the data of a request are given, with what lies between its pieces."""
        return max(self.sizes) + (PIECES if self.pieces > 1 else 0) * TARGET_PAGE_BYTES

    def transfer(self, number: int, room: int) -> Transfer:
        """Return a request.

        Args:
            number: its number.
            room: guest-physical address of `room_bytes`, which begin with a page.
        """
        sectors = self.sectors(number)
        at, size = sectors.start * SECTOR_BYTES, len(sectors) * SECTOR_BYTES
        pieces = _scattered(room, size) if self.pieces > 1 else (Piece(room, size),)
        return Transfer(at, pieces, self.writes(number))

    def writes(self, number: int) -> bool:
        """Return whether a request writes."""
        return (number - self._last(self._numbers(number))) % 2 == int(self.last_reads)

    def done_before_t0(self, number: int) -> bool:
        """Return whether a request is carried out before T0: QEMU has waited for all that it had begun.

        A request that waits in a serial device must not begin in a stopped guest.
        """
        numbers = self._numbers(number)
        if self.fails and number == self._last(numbers):
            return False
        return number in numbers.consumed or number in numbers.in_flight[: 1 if self.serial else self.told]

    def failing(self) -> list[int]:
        """Return the requests that fail once, one for each snapshot."""
        if not self.fails:
            return []
        return [self._last(Numbers.of(number, self.counts)) for number in range(1, _SNAPSHOTS)]

    def _numbers(self, number: int) -> Numbers:
        return Numbers.of(number // self.counts.total, self.counts)

    def _last(self, numbers: Numbers) -> int:
        return numbers.in_flight[self.told - 1]


QUEUE = Plan(Counts(consumed=2, in_flight=6, later=2), told=4)
"""A disk that has several requests at a time: two that pass the throttle, two that it keeps back."""

ONE = Plan(Counts(consumed=4, in_flight=4, later=2), told=1, serial=True)
"""A disk that has one at a time, which the throttle keeps back."""

WAITING = Plan(Counts(consumed=4, in_flight=6, later=2), told=4, serial=True)
"""A disk that has several and works on one at a time: the throttle keeps it back, and the others wait."""

QUEUE_IN_PIECES, ONE_IN_PIECES = (replace(plan, sizes=LONG, pieces=PIECES) for plan in (QUEUE, ONE))
"""The same as QUEUE and ONE, with long requests whose data lie in several pieces of guest RAM."""


def _scattered(room: int, size: int) -> tuple[Piece, ...]:
    """Return PIECES pieces, each of which lies in front of the one before it, with a page between them.

    Args:
        room: guest-physical address of a page, with room for `size` and PIECES pages more.
        size: of all pieces, a multiple of the page size, of which it has 4 or more.
    """
    page = TARGET_PAGE_BYTES
    # The two pieces at the ends have one page between them beside whole ones.
    tail = (size // page - 1) // PIECES
    middle = tail + (size // page - 1) % PIECES
    head = tail
    middle_at = room + (tail + 2) * page
    head_at = middle_at + (middle + 1) * page + page - _HEAD_BYTES
    return (
        Piece(head_at, _HEAD_BYTES + head * page),
        Piece(middle_at, middle * page),
        Piece(room, tail * page + page - _HEAD_BYTES),
    )


def content(sectors: range, *, written: bool) -> bytes:
    """Return the content of some sectors, before or after they are written to."""
    return b"".join(sector(number, written=written) for number in sectors)


def sector(number: int, *, written: bool) -> bytes:
    """Return the content of a sector, before or after it is written to."""
    return struct.pack("<QQ", number, written + 1) * (SECTOR_BYTES // 16)


def sector_number(content: bytes, *, written: bool) -> int:
    """Return the number of the sector that has a content, -1 for none."""
    number = int.from_bytes(content[:8], "little")
    return number if content == sector(number, written=written) else -1


def make_disk(path: Path, size: int) -> None:
    """Make an image of some bytes, and the empty log of its writes."""
    path.write_bytes(content(range(size // SECTOR_BYTES), written=False))
    log_of(path).write_bytes(b"")


def log_of(disk: Path) -> Path:
    """Return where QEMU logs the writes to an image."""
    return disk.with_suffix(".log")


def written_sectors(far: FarEnd) -> Counter[int]:
    """Return how often each sector of the image of one QEMU was written; -1 for a wrong content or place."""
    return Counter(
        _written(write.at // SECTOR_BYTES + at, write.data[at * SECTOR_BYTES :][:SECTOR_BYTES])
        for write in logged_writes(log_of(far.disk))
        for at in range(len(write.data) // SECTOR_BYTES)
    )


def _written(at: int, data: bytes) -> int:
    return at if sector_number(data, written=True) == at else -1


def found_written(written: Mapping[int, int], number: int, sectors: range, *, before_t0: bool) -> list[int]:
    """Return what the log says of a write that the guest takes for done: its number, as often as it was made.

    Args:
        written: how often each sector of the image was written.
        number: the request's.
        sectors: the request's.
        before_t0: whether they were written before T0 by another guest, to another image. Then a write in
            this image is the second one.

    Returns:
        A negative number where a sector was not written.
    """
    counts = [written.get(sector, 0) + before_t0 for sector in sectors]
    return [number] * max(counts) if min(counts) else [-1 - number]


def disk(far: FarEnd, devices: Sequence[str], plan: Plan) -> tuple[str, ...]:
    """Return the arguments for the disk.

    Args:
        far: whose disk.
        devices: options of the devices, without ids and drive; the last one is the disk.
        plan: of the requests; one that fails does so in the source alone.
    """
    file: dict[str, object] = {"driver": "file", "filename": str(far.disk)}
    file = log_node(file, log_of(far.disk), SECTOR_BYTES)
    if plan.fails and not far.restored:
        rules = [
            {"event": "none", "sector": plan.sectors(number)[-1], "once": True} for number in plan.failing()
        ]
        file = {"driver": "blkdebug", "image": file, "inject-error": rules}
    *buses, last = devices
    stops = ",rerror=stop,werror=stop" if plan.fails else ""
    return (
        *("-blockdev", json.dumps({"driver": "raw", "node-name": _NODE, "file": file})),
        *(text for bus in buses for text in ("-device", f"{bus},id=flight-bus")),
        *("-device", f"{last},id=flight-disk,drive={_NODE}{stops}"),
    )


def close_throttle(machine: Machine) -> None:
    """Let no more than PASSING requests pass, and keep back all others."""
    _limit(machine, _BYTES_PER_SECOND)


def open_throttle(machine: Machine) -> None:
    """Let all requests pass."""
    _limit(machine, _NO_LIMIT)


def operations(machine: Machine) -> tuple[int, int]:
    """Return how many reads and writes of the disk QEMU has counted since its start."""
    stats = _of_disk(machine, "query-blockstats", lambda found: found.get("node-name"))["stats"]
    return int(stats["rd_operations"]), int(stats["wr_operations"])


def _limit(machine: Machine, bytes_per_second: int) -> None:
    found = _of_disk(machine, "query-block", lambda found: found.get("inserted", {}).get("node-name"))
    none = dict.fromkeys(("bps", "iops", "iops_rd", "iops_wr"), 0)
    both = dict.fromkeys(("bps_rd", "bps_wr"), bytes_per_second)
    machine.qmp.execute("block_set_io_throttle", {"id": found["qdev"], **both, **none})


def _of_disk(machine: Machine, query: str, node: Any) -> dict[str, Any]:
    """Return what a query says of the disk; raises SetupBroken where it says nothing."""
    for found in machine.qmp.execute(query):
        if node(found) == _NODE:
            return dict(found)
    raise SetupBroken(f"QEMU's {query} does not have the guest's disk.")
