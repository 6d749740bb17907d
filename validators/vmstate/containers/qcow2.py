"""Finds the vmstate stream of an internal snapshot in a qcow2 image.

QEMU 10.0 docs/interop/qcow2.txt, block/qcow2.c and block/qcow2-snapshot.c. `savevm` writes the stream to
guest offsets behind the disk's end, and the snapshot's own L1 table maps them: the first is the disk's size,
rounded up to what one entry of the L1 table covers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.errors import UsageError
from validators.vmstate.stream.cursor import readable
from validators.vmstate.stream.source import FileSource

MAGIC = b"QFI\xfb"

_HEADER_BYTES = 104
_CLUSTER_BITS = range(9, 22)
# QEMU's own bounds: QCOW_MAX_SNAPSHOTS, .._SNAPSHOT_EXTRA_DATA, .._L1_SIZE, .._SNAPSHOTS_SIZE.
_MAX_SNAPSHOTS = 65_536
_MAX_EXTRA_BYTES = 1024
_MAX_L1_BYTES = 32 << 20
_MAX_TABLE_BYTES = 64 << 20
# More than the largest file of most file systems; the clusters of a stream are all but few in the image.
_MAX_STREAM_BYTES = 16 << 40

_ENCRYPTED_NONE = 0
_INCOMPATIBLE_DATA_FILE, _INCOMPATIBLE_EXTENDED_L2 = 1 << 2, 1 << 4
_ENTRY = struct.Struct(">QIHHIIQII")
_OFFSET_MASK = np.uint64(0x00FF_FFFF_FFFF_FE00)
_COMPRESSED = np.uint64(1 << 62)
_ZERO = np.uint64(1)

Entries = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class InternalSnapshot:
    """An internal snapshot that has a vmstate stream.

    Attributes:
        number: its id, which QEMU counts from 1.
        name: its name.
        bytes: length of the stream.
        l1_offset: file offset of its L1 table.
        l1_entries: entries of that table.
        disk_bytes: size of the disk in it.
    """

    number: str
    name: str
    bytes: int
    l1_offset: int
    l1_entries: int
    disk_bytes: int


def _damaged(what: str) -> UsageError:
    return UsageError(f"The qcow2 image is damaged: {what}. 'qemu-img check' says more.")


class Qcow2Image:
    """A qcow2 image, which is untrusted.

    Attributes:
        snapshots: internal snapshots that have a vmstate stream, in the order of the image.
        others: number of those that have none.
        cluster_bytes: bytes of a cluster.
    """

    def __init__(self, source: FileSource) -> None:
        """Read header and snapshot table.

        Raises:
            UsageError: they are damaged, or of a kind that cannot be read.
        """
        self._source = source
        head = source.read(0, _HEADER_BYTES)
        if len(head) < 72:
            raise _damaged(f"it ends within its header, after {len(head)} bytes")
        (version,) = struct.unpack_from(">I", head, 4)
        bits, self._disk_bytes, crypt = struct.unpack_from(">IQI", head, 20)
        count, offset = struct.unpack_from(">IQ", head, 60)
        if version not in (2, 3):
            raise UsageError(f"The qcow image has version {version}; internal snapshots need version 2 or 3.")
        if bits not in _CLUSTER_BITS:
            raise _damaged(f"a cluster of 2 to the power of {bits} bytes cannot be")
        features = struct.unpack_from(">Q", head, 72)[0] if version == 3 and len(head) >= 80 else 0
        self.cluster_bytes: int = 1 << bits
        self._covered = self.cluster_bytes * (self.cluster_bytes // 8)
        self.snapshots, self.others = self._read_table(count, offset)
        # Of an image without a stream it does not matter where its data is.
        if self.snapshots:
            _require_plain(crypt, features)

    def _read_table(self, count: int, offset: int) -> tuple[tuple[InternalSnapshot, ...], int]:
        if count > _MAX_SNAPSHOTS:
            raise _damaged(f"{count} snapshots are more than QEMU makes")
        found, at = [], offset
        for _ in range(count):
            raw = self._source.read(at, _ENTRY.size)
            if len(raw) < _ENTRY.size or at - offset > _MAX_TABLE_BYTES:
                raise _damaged("its snapshot table ends early")
            l1, entries, id_length, name_length, _, _, _, size, extra_length = _ENTRY.unpack(raw)
            if extra_length > _MAX_EXTRA_BYTES:
                raise _damaged(f"a snapshot has {extra_length} bytes of extra data")
            rest = self._source.read(at + _ENTRY.size, extra_length + id_length + name_length)
            extra, names = rest[:extra_length], rest[extra_length:]
            size = int.from_bytes(extra[:8], "big") if len(extra) >= 8 else size
            disk = int.from_bytes(extra[8:16], "big") if len(extra) >= 16 else self._disk_bytes
            number, name = readable(names[:id_length]), readable(names[id_length:])
            found.append(InternalSnapshot(number, name, size, l1, entries, disk))
            at += -(-(_ENTRY.size + extra_length + id_length + name_length) // 8) * 8
        streams = tuple(one for one in found if one.bytes)
        return streams, len(found) - len(streams)

    def choose(self, name: str) -> InternalSnapshot:
        """Return the snapshot of a name or id; without one the only snapshot.

        Raises:
            UsageError: there is none, or several without a name.
        """
        listed = ", ".join(f"'{one.name}'" for one in self.snapshots[:16])
        if not self.snapshots:
            have = (
                f"its {self.others} snapshots have"
                if self.others
                else "it has no internal snapshot and so has"
            )
            raise UsageError(
                f"The file is a qcow2 disk image, and {have} no state of a running guest. Name the file that "
                "'migrate' or 'virsh save' wrote, or an image in which 'savevm' made a snapshot."
            )
        if not name:
            if len(self.snapshots) > 1:
                raise UsageError(
                    f"The qcow2 image has {len(self.snapshots)} snapshots with the state of a guest; choose "
                    f"one with --snapshot: {listed}."
                )
            return self.snapshots[0]
        # QEMU looks for a name first, and takes an id only if there is no such name.
        for found in (*(one for one in self.snapshots if one.name == name),
                      *(one for one in self.snapshots if one.number == name)):  # fmt: skip
            return found
        raise UsageError(
            f"The qcow2 image has no snapshot '{name}' with the state of a guest; it has {listed}."
        )

    def clusters(self, snapshot: InternalSnapshot) -> Iterator[tuple[int, int]]:
        """Yield of each cluster of a snapshot's stream that has data its place in the stream and in the file.

        Raises:
            UsageError: the tables are damaged.
        """
        cluster = self.cluster_bytes
        most = self._source.size // cluster + 1
        tables = self._l1(snapshot)
        used = np.flatnonzero(tables & _OFFSET_MASK)
        if len(used) > most:
            raise _damaged(f"the snapshot '{snapshot.name}' has more tables than the image has clusters")
        left = most
        for number in used.tolist():
            entries = self._table(int(tables[number] & _OFFSET_MASK), cluster // 8, "an L2 table")
            if (entries & _COMPRESSED).any():
                raise UsageError("The state of the guest lies in compressed clusters, which cannot be read.")
            has_data = ((entries & _OFFSET_MASK) != 0) & ((entries & _ZERO) == 0)
            first = number * self._covered
            for entry in np.flatnonzero(has_data).tolist():
                place, at = first + entry * cluster, int(entries[entry] & _OFFSET_MASK)
                if place >= snapshot.bytes:
                    return
                if at % cluster or at >= self._source.size:
                    raise _damaged(f"a cluster of the state of the guest is at 0x{at:x}, where there is none")
                left -= 1
                if left < 0:
                    raise _damaged(f"the snapshot '{snapshot.name}' has more clusters than the image")
                yield place, at

    def _l1(self, snapshot: InternalSnapshot) -> Entries:
        """Return the part of the snapshot's L1 table that maps its stream."""
        if snapshot.bytes > _MAX_STREAM_BYTES:
            raise _damaged(f"{snapshot.bytes:,} bytes of state of the guest are more than there can be")
        first = -(-snapshot.disk_bytes // self._covered)
        count = -(-snapshot.bytes // self._covered)
        if snapshot.l1_entries * 8 > _MAX_L1_BYTES or first + count > snapshot.l1_entries:
            raise _damaged(
                f"the L1 table of the snapshot '{snapshot.name}' does not fit its state of the guest"
            )
        return self._table(snapshot.l1_offset + first * 8, count, "an L1 table")

    def _table(self, offset: int, count: int, what: str) -> Entries:
        raw = self._source.read(offset, count * 8)
        if len(raw) < count * 8:
            raise _damaged(f"{what} is at 0x{offset:x}, behind its end")
        return np.frombuffer(raw, ">u8").astype(np.uint64)


def _require_plain(crypt: int, features: int) -> None:
    if crypt != _ENCRYPTED_NONE:
        raise UsageError(
            "The qcow2 image is encrypted, and so is the state of the guest in it. Convert it first "
            "('loadvm' in QEMU, then 'migrate file:vmstate')."
        )
    if features & _INCOMPATIBLE_DATA_FILE:
        raise UsageError("The qcow2 image has its data in another file, which cannot be read here.")
    if features & _INCOMPATIBLE_EXTENDED_L2:
        raise UsageError("The qcow2 image has extended L2 entries, which cannot be read here.")


def snapshot_names(snapshots: Sequence[InternalSnapshot]) -> str:
    """Return names and sizes of snapshots for a person."""
    return ", ".join(f"{one.name} ({one.bytes:,} bytes)" for one in snapshots)
