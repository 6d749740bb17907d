"""Lists the kinds of RAM that are known, by properties, and what writes to each, or why nothing does."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from harness.qemu.memory_tree import (
    ELSEWHERE,
    NV_RAM,
    RAM,
    ROM,
    ROM_DEVICE,
    UNMAPPED,
    UNMAPPED_READ_ONLY,
    UNMAPPED_WRITABLE,
    RamKind,
)


class Writer(enum.Enum):
    """What writes to RAM after T0, in the order in which the snapshots are taken."""

    BUS = "bus"
    FLASH = "flash"
    DEBUGGER = "debugger"

    @property
    def words(self) -> str:
        """Return what it is."""
        return {
            Writer.BUS: "QEMU's debugger by a guest-physical address, which is the path of a device's DMA",
            Writer.FLASH: "the same, by the commands of a flash device",
            Writer.DEBUGGER: "QEMU's debugger by a CPU's address, which writes to read-only memory too",
        }[self]


@dataclass(frozen=True)
class KnownKind:
    """A kind of RAM, or several that are written in the same way.

    Attributes:
        access: of `RamKind`.
        owners: those of `RamKind` that it may have.
        writer: what writes to it, None for nothing.
        reason: why nothing does, and what tests it in place of it.
        saved: of `RamKind`.
        hosts: those of `RamKind` that it may have, empty for any that is known.
    """

    access: str
    owners: tuple[str, ...]
    writer: Writer | None
    reason: str = ""
    saved: bool = True
    hosts: tuple[str, ...] = ()


_BOARD, _DEVICE, _BACKEND = "board", "device", "backend"
_ANY = (_BOARD, _DEVICE, _BACKEND)
# "unknown" is the host memory of what QEMU before 8.2 maps nowhere.
_HOSTS = ("private", "shared", "private file", "shared file", "huge pages", "unknown")
_READ_ONLY = ("read-only private file", "read-only shared file", "read-only shared", "read-only private")
_TABLES = "only QEMU writes to it, when it makes tables anew: foreign-writers.firmware-tables"
_NO_BAR = (
    "no firmware has given it an address; with one it is RAM or ROM, which is tested on machines with PCI"
)

KNOWN_KINDS = (
    KnownKind(RAM, _ANY, Writer.BUS),
    KnownKind(NV_RAM, (_BACKEND,), Writer.BUS),
    KnownKind(ROM_DEVICE, (_DEVICE,), Writer.FLASH),
    KnownKind(ROM, (_BOARD, _DEVICE, _BACKEND), Writer.DEBUGGER),
    KnownKind(
        ROM, (_BACKEND,), None, "the host's mapping is read-only, so nothing in QEMU can", hosts=_READ_ONLY
    ),
    KnownKind(UNMAPPED_READ_ONLY, (_DEVICE,), None, _TABLES),
    KnownKind(UNMAPPED_WRITABLE, (_DEVICE, _BACKEND), None, _NO_BAR),
    KnownKind(UNMAPPED, (_DEVICE, _BACKEND), None, f"{_TABLES}; or {_NO_BAR}"),
    KnownKind(
        f"{RAM}{ELSEWHERE}",
        (_BOARD,),
        None,
        "only instructions of a vCPU write to it (memory tags, secure memory)",
    ),
    KnownKind(
        f"{ROM_DEVICE}{ELSEWHERE}", (_DEVICE,), None, "only a vCPU in the secure state sees this flash"
    ),
    KnownKind(RAM, (_BACKEND,), None, "it is not in the file at all, which is a violation", saved=False),
)
"""A kind that is not here has no test, and is a violation."""


def known_kind(kind: RamKind, table: Iterable[KnownKind] = KNOWN_KINDS) -> KnownKind | None:
    """Return the entry of a kind, None for a new kind."""
    for entry in table:
        same = (entry.access, entry.saved) == (kind.access, kind.saved) and kind.owner in entry.owners
        if same and kind.host in (entry.hosts or _HOSTS):
            return entry
    return None
