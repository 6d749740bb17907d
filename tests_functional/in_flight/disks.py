"""The disk of a guest with requests in flight: an image of numbered blocks behind a throttle.

A throttle keeps requests back until QEMU stops the guest, which waits for all of them (QEMU 10.0
system/cpus.c do_vm_stop(), bdrv_drain_all()). A request that fails meanwhile is kept by the device with
`rerror=stop` and `werror=stop`, is in its state in the file, and is tried again when the guest goes on.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SetupBroken
from harness.qemu.machine import Machine
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_functional.in_flight.stream import FarEnd
from tests_functional.in_flight.write_log import log_node, logged_writes
from tests_functional.lib.drivers.disk import SECTOR_BYTES

BLOCK_SECTORS = 8
"""Sectors that a request reads or writes."""

BLOCK_BYTES = BLOCK_SECTORS * SECTOR_BYTES
"""Bytes that a request reads or writes."""

BLOCKS = 64
"""Blocks of the disk; item n of a stream is the request for block n."""

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


@dataclass(frozen=True)
class Plan:
    """Which requests a stream has in flight at T0.

    Attributes:
        counts: of the requests around one snapshot.
        told: of those in flight, the first ones that the device is told of before T0.
        serial: whether the device works on one at a time, so that the others wait in it at T0.
        fails: whether the last of these fails while QEMU stops the guest.
        last_reads: whether that one reads from the disk; else it writes. Every second request writes.
    """

    counts: Counts
    told: int
    serial: bool = False
    fails: bool = False
    last_reads: bool = False

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


def block(number: int) -> bytes:
    """Return the content of a block before it is written to."""
    return _content(number, 0)


def written_block(number: int) -> bytes:
    """Return what the request for a block writes."""
    return _content(number, 1)


def _content(number: int, kind: int) -> bytes:
    first = number * BLOCK_SECTORS
    return b"".join(sector(one, written=bool(kind)) for one in range(first, first + BLOCK_SECTORS))


def sector(number: int, *, written: bool) -> bytes:
    """Return the content of a sector, before or after it is written to."""
    return struct.pack("<QQ", number, written + 1) * (SECTOR_BYTES // 16)


def sector_number(content: bytes, *, written: bool) -> int:
    """Return the number of the sector that has a content, -1 for none."""
    number = int.from_bytes(content[:8], "little")
    return number if content == sector(number, written=written) else -1


def make_disk(path: Path) -> None:
    """Make the image, and the empty log of its writes."""
    path.write_bytes(b"".join(block(number) for number in range(BLOCKS)))
    log_of(path).write_bytes(b"")


def log_of(disk: Path) -> Path:
    """Return where QEMU logs the writes to an image."""
    return disk.with_suffix(".log")


def written_numbers(far: FarEnd) -> list[int]:
    """Return the requests that have written to the image of one QEMU, in their order.

    A write that no request asks for has the number -1.
    """
    return [_number(write.at, write.data) for write in logged_writes(log_of(far.disk))]


def _number(at: int, data: bytes) -> int:
    number = at // BLOCK_BYTES
    return number if at % BLOCK_BYTES == 0 and data == written_block(number) else -1


def found_written(written: Sequence[int], number: int, *, before_t0: bool) -> list[int]:
    """Return what the log says of a write that the guest takes for done: its number, as often as it was made.

    Args:
        written: the writes to the image, by number.
        number: the request's.
        before_t0: whether it was carried out before T0 by another guest, with another image. Then one in this
            image is the second one.

    Returns:
        A negative number where the write was not made.
    """
    count = written.count(number) + before_t0
    return [number] * count or [-1 - number]


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
            {"event": "none", "sector": number * BLOCK_BYTES // SECTOR_BYTES, "once": True}
            for number in plan.failing()
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
