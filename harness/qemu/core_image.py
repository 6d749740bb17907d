"""Makes a golden image out of QEMU's own dump of guest memory, where QEMU's process cannot be read.

The command `dump-guest-memory` writes an ELF core of guest-physical memory into a descriptor that it was
given, so neither a path nor rights on QEMU's process are needed. It has what the guest's processors see: RAM
that is hidden from them at that moment (behind a display card's window, or below firmware) is not in it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.elf_core import BadCore, Segment, core_segments
from harness.errors import SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine
from harness.qemu.monitor_tables import Place, parse_ranges, region_of
from harness.qemu.ram import GoldenImage, RamBlock, copy_in, parse_ramblocks, write_golden_index

LEAST_SHARE = 0.9
"""The share of the largest RAMBlock that a core must have to serve as a golden image."""

_CHUNK_BYTES = 1 << 20
_POLL_SECONDS = 0.02
# QEMU 7.2 to 11.1 dump/dump.c, qmp_dump_guest_memory(): "... disabled: dump-guest-memory in progress".
_BLOCKER = "dump-guest-memory"


@dataclass(frozen=True)
class Piece:
    """A piece of a RAMBlock in a core, in whole target pages.

    Attributes:
        offset: of its first byte in the RAMBlock.
        size: in bytes.
        file_offset: of its first byte in the core.
    """

    offset: int
    size: int
    file_offset: int


@dataclass(frozen=True)
class RamTable:
    """Where the RAMBlocks of a machine were when its memory was dumped.

    Attributes:
        blocks: all RAMBlocks of a stream.
        places: by memory region, the guest-physical ranges that show it.
    """

    blocks: tuple[RamBlock, ...]
    places: dict[str, list[Place]]

    @classmethod
    def look(cls, machine: Machine) -> RamTable:
        """Ask a QEMU whose guest is stopped."""
        return cls(parse_ramblocks(machine.hmp("info ramblock")), parse_ranges(machine.hmp("info mtree -f")))


def dump_core(machine: Machine, path: Path, name: str, deadline: Deadline) -> None:
    """Have QEMU write an ELF core of a stopped guest into a new file, of which it gets the descriptor.

    The monitor answers meanwhile, but refuses to continue the guest.

    Args:
        machine: its guest must be stopped.
        path: the file, which only its owner may read.
        name: for the descriptor in QEMU, which closes it.
        deadline: for the dump, which cannot be ended earlier.

    Raises:
        CommandRefused: QEMU refuses to dump this guest's memory.
        SetupBroken: the dump failed, or did not end in time.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        machine.qmp.pass_descriptor(file, name)
    finally:
        os.close(file)
    arguments = {"paging": False, "protocol": f"fd:{name}", "detach": True}
    machine.qmp.execute("dump-guest-memory", arguments)
    while (status := _status(machine)) == "active":
        if deadline.expired:
            raise SetupBroken(
                "QEMU did not end its dump of guest memory in time; the guest goes on when it does. Write to "
                "a faster disk, or do without a golden image (--no-golden)."
            )
        machine.pause(deadline, _POLL_SECONDS)
    if status != "completed":
        raise SetupBroken(
            f"QEMU's dump of guest memory ended as '{status}', most likely because the disk is full."
        )


def _status(machine: Machine) -> str:
    """Return how far a dump is; one that blocks migration still is active.

    QEMU 11.1 dump/dump.c, dump_process(): it says `completed` before it cleans up, which lifts its blocker.
    """
    status = str(machine.qmp.execute("query-dump")["status"])
    reasons = machine.query_migrate().get("blocked-reasons", ())
    return "active" if status == "completed" and any(_BLOCKER in reason for reason in reasons) else status


def read_segments(path: Path) -> tuple[Segment, ...]:
    """Return the pieces of memory in an ELF core.

    Raises:
        SetupBroken: it is no core, or is cut.
    """
    with path.open("rb", buffering=0) as core:
        file = core.fileno()
        try:
            return core_segments(lambda at, length: os.pread(file, length, at), os.fstat(file).st_size)
        except BadCore as error:
            full = "; was the disk full?" if error.cut else "."
            raise SetupBroken(f"'{path}', QEMU's dump of guest memory, {error}{full}") from error


def pieces_of(block: RamBlock, places: Sequence[Place], segments: Sequence[Segment]) -> list[Piece]:
    """Return the pieces of a RAMBlock that a core has, by offset, none of them twice.

    Args:
        block: the RAMBlock.
        places: the ranges at which the guest's processors see it.
        segments: of the core.
    """
    found = []
    for place in places:
        if not place.in_cpu_space:
            continue
        for segment in segments:
            start = max(place.address, segment.address)
            end = min(place.address + place.size, segment.address + segment.size)
            first = place.offset + start - place.address
            last = min(place.offset + end - place.address, block.used_bytes)
            whole = -(-first // TARGET_PAGE_BYTES) * TARGET_PAGE_BYTES
            length = (last - whole) // TARGET_PAGE_BYTES * TARGET_PAGE_BYTES
            if start < end and length > 0:
                at = segment.file_offset + start - segment.address + whole - first
                found.append(Piece(whole, length, at))
    return _without_overlap(found)


def _without_overlap(pieces: list[Piece]) -> list[Piece]:
    """Return pieces by offset, of which none shows a page again that one before it shows."""
    found: list[Piece] = []
    for piece in sorted(pieces, key=lambda one: one.offset):
        end = found[-1].offset + found[-1].size if found else 0
        known = max(0, end - piece.offset)
        if known < piece.size:
            found.append(Piece(piece.offset + known, piece.size - known, piece.file_offset + known))
    return found


def gaps_of(block: RamBlock, pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """Return the ranges of a RAMBlock, as first byte and the one behind the last, that no piece shows."""
    found, at = [], 0
    for piece in pieces:
        if piece.offset > at:
            found.append((at, piece.offset))
        at = piece.offset + piece.size
    if at < block.used_bytes:
        found.append((at, block.used_bytes))
    return found


def golden_from_core(core: Path, table: RamTable, folder: Path) -> GoldenImage:
    """Make a golden image of a core: golden.json, and one sparse raw file for each RAMBlock that it has.

    golden.json names as `gaps` what a core lacks of a RAMBlock, and as left out the RAMBlocks of which it has
    nothing, or which cannot be told apart since their memory regions have the same name.

    Args:
        core: what `dump_core` has written.
        table: of the machine, from when it was stopped.
        folder: created; receives the image.

    Raises:
        SetupBroken: the core is none, or lacks most of the largest RAMBlock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    segments = read_segments(core)
    names = Counter(region_of(block.idstr) for block in table.blocks)
    copied: list[RamBlock] = []
    left_out, gaps = [], {}
    for block in table.blocks:
        region = region_of(block.idstr)
        places = table.places.get(region, []) if names[region] == 1 else []
        pieces = pieces_of(block, places, segments)
        _require_most(block, pieces, table)
        if not pieces:
            left_out.append(block)
            continue
        _copy(core, pieces, copy_in(folder, len(copied)), block.used_bytes)
        gaps[block.idstr] = gaps_of(block, pieces)
        copied.append(block)
    return write_golden_index(folder, copied, left_out, gaps)


def _require_most(block: RamBlock, pieces: Sequence[Piece], table: RamTable) -> None:
    if block is not max(table.blocks, key=lambda one: one.used_bytes):
        return
    share = sum(piece.size for piece in pieces) / block.used_bytes
    if share < LEAST_SHARE:
        raise SetupBroken(
            f"QEMU's dump of guest memory has {share:.0%} of the RAMBlock '{block.idstr}', which is too "
            "little for a golden image; do without one (--no-golden)."
        )


def _copy(core: Path, pieces: Sequence[Piece], target: Path, size: int) -> None:
    zero = bytes(_CHUNK_BYTES)
    with core.open("rb", buffering=0) as source, target.open("wb", buffering=0) as image:
        image.truncate(size)
        for piece in pieces:
            for offset, length in _chunks(piece):
                data = os.pread(source.fileno(), length, piece.file_offset + offset)
                if len(data) != length:
                    raise SetupBroken(f"'{core}', QEMU's dump of guest memory, became shorter.")
                if data != zero[:length]:
                    os.pwrite(image.fileno(), data, piece.offset + offset)


def _chunks(piece: Piece) -> Iterator[tuple[int, int]]:
    for offset in range(0, piece.size, _CHUNK_BYTES):
        yield offset, min(_CHUNK_BYTES, piece.size - offset)
