"""The disk of a guest with requests in flight: an image of numbered blocks behind a throttle.

A throttle keeps requests back until QEMU stops the guest, which waits for all of them (QEMU 10.0
system/cpus.c do_vm_stop(), bdrv_drain_all()). A request that fails meanwhile is kept by the device with
`rerror=stop` and `werror=stop`, is in its state in the file, and is tried again when the guest goes on.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

from harness.qemu.machine import Machine
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_functional.in_flight.stream import FarEnd

COUNTS = Counts(consumed=2, in_flight=6, later=2)
"""Requests around one snapshot."""

NOT_TOLD = 2
"""Of those in flight, the last ones that a device with a queue in RAM was not told of."""

MOST_PASSING = 2
"""How many requests a closed throttle still lets pass: one to read and one to write."""

SECTOR_BYTES = 512
"""The unit in which a request says its place."""

BLOCK_BYTES = 8 * SECTOR_BYTES
"""Bytes that a request reads or writes."""

BLOCKS = 64
"""Blocks of the disk; item n of a stream is the request for block n."""

_DISK, _BUS = "flight-disk", "flight-bus"
DISK_PATH, BUS_PATH = f"/machine/peripheral/{_DISK}", f"/machine/peripheral/{_BUS}"
"""QOM paths of the device that is the disk, and of the one that it is attached to if that is another one."""

_NODE = "flight-image"
# The first read and the first write pass, and all others wait for hours.
_BYTES_PER_SECOND = 1
# QEMU forgets what waits if there is no limit any more; with another one it looks at it again.
_NO_LIMIT = 1 << 40
_SNAPSHOTS = 4
_PER_SNAPSHOT = COUNTS.consumed + COUNTS.in_flight + 2 * COUNTS.later


def block(number: int) -> bytes:
    """Return the content of a block before it is written to."""
    return _content(number, 0)


def written_block(number: int) -> bytes:
    """Return what the request for a block writes."""
    return _content(number, 1)


def writes(number: int) -> bool:
    """Return whether a request writes; every second one does."""
    return number % 2 == 1


def _content(number: int, kind: int) -> bytes:
    return struct.pack("<QQ", number, kind + 1) * (BLOCK_BYTES // 16)


def make_disk(path: Path) -> None:
    """Make the image."""
    path.write_bytes(b"".join(block(number) for number in range(BLOCKS)))


def found_written(far: FarEnd, number: int, *, fails: bool) -> list[int]:
    """Return what the image says of a write that the guest takes for done: its number once, or twice.

    A restored guest's image is another one, which has none of the source's writes. So a write of before T0 in
    it was made for the second time. The number is negative where the write was not made.
    """
    with far.disk.open("rb") as file:
        file.seek(number * BLOCK_BYTES)
        written = file.read(BLOCK_BYTES) == written_block(number)
    if far.restored and done_before_t0(number, fails=fails):
        return [number] * (1 + written)
    return [number if written else -1 - number]


def done_before_t0(number: int, *, fails: bool) -> bool:
    """Return whether a request is carried out before T0: by then QEMU has waited for all that it had.

    Args:
        number: the request's.
        fails: as for `disk`.
    """
    numbers = Numbers.of(number // _PER_SNAPSHOT, COUNTS)
    if fails and number == failing(numbers):
        return False
    return number in numbers.consumed or number in numbers.in_flight[:-NOT_TOLD]


def failing(numbers: Numbers) -> int:
    """Return the request of a snapshot that fails while QEMU stops the guest, if one does."""
    return numbers.in_flight[-NOT_TOLD - 1]


def disk(far: FarEnd, device: Sequence[str], *, fails: bool = False) -> tuple[str, ...]:
    """Return the arguments for the disk.

    Args:
        far: whose disk.
        device: options of the device, without its drive.
        fails: one request of each snapshot fails once, in the source alone.
    """
    file: dict[str, object] = {"driver": "file", "filename": str(far.disk)}
    if fails and not far.restored:
        rules = [
            {
                "event": "none",
                "sector": failing(Numbers.of(number, COUNTS)) * BLOCK_BYTES // SECTOR_BYTES,
                "once": True,
            }
            for number in range(1, _SNAPSHOTS)
        ]
        file = {"driver": "blkdebug", "image": file, "inject-error": rules}
    *buses, last = device
    stops = ",rerror=stop,werror=stop" if fails else ""
    return (
        *("-blockdev", json.dumps({"driver": "raw", "node-name": _NODE, "file": file})),
        *(text for bus in buses for text in ("-device", f"{bus},id={_BUS}")),
        *("-device", f"{last},id={_DISK},drive={_NODE}{stops}"),
    )


def close_throttle(machine: Machine, path: str) -> None:
    """Let no more than MOST_PASSING requests pass, and keep back all others.

    Args:
        machine: QEMU.
        path: QOM path of the device that has the disk.
    """
    _limit(machine, path, _BYTES_PER_SECOND)


def open_throttle(machine: Machine, path: str) -> None:
    """Let all requests pass; arguments as for `close_throttle`."""
    _limit(machine, path, _NO_LIMIT)


def _limit(machine: Machine, path: str, bytes_per_second: int) -> None:
    none = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    machine.qmp.execute("block_set_io_throttle", {"id": path, "bps": bytes_per_second, **none})
