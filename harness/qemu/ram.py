"""Read guest RAM from outside: a QEMU's RAMBlocks, their bytes, and which pages are mapped or protected."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import MachineryMissing, SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine, known_pid
from harness.qemu.monitor_tables import parse_block_lines, parse_ranges, region_of
from harness.userfaultfd import libc

_CHUNK_BYTES = 4 << 20
# Linux Documentation/admin-guide/mm/pagemap.rst: bit 57, "pte is uffd-wp write-protected" (5.14+).
_UFFD_WP_BIT = np.uint64(1 << 57)
# The same document: bit 63 is set for a page in RAM, bit 62 for one in swap space.
_POPULATED = np.uint64(3 << 62)


@dataclass(frozen=True)
class RamBlock:
    """One RAMBlock of a running QEMU.

    Attributes:
        idstr: its name in the vmstate stream, e.g. ``pc.ram``.
        used_bytes: used length in bytes, which is what a stream carries.
        host_address: its address in QEMU's own address space, 0 where QEMU does not print it.
    """

    idstr: str
    used_bytes: int
    host_address: int


@dataclass(frozen=True)
class GoldenImage:
    """A copy of guest RAM made while the guest was stopped at T0.

    Attributes:
        folder: has golden.json and one file per RAMBlock.
        blocks: the RAMBlocks that were copied.
        gaps: by RAMBlock, the ranges that were not, as first byte and the one behind the last.
    """

    folder: Path
    blocks: tuple[RamBlock, ...]
    gaps: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)

    def copies(self) -> Iterator[tuple[RamBlock, Path]]:
        """Yield each RAMBlock that was copied, and the file with the copy."""
        for number, block in enumerate(self.blocks):
            yield block, copy_in(self.folder, number)

    @property
    def total_bytes(self) -> int:
        """Return the bytes of RAM in the image."""
        return sum(block.used_bytes for block in self.blocks)


def copy_in(folder: Path, number: int) -> Path:
    """Return the file of a golden image that has the copy of a RAMBlock, by its number in the image."""
    return folder / f"block-{number:03d}.ram"


def write_golden_index(
    folder: Path,
    blocks: Sequence[RamBlock],
    left_out: Iterable[RamBlock],
    gaps: Mapping[str, Sequence[tuple[int, int]]],
) -> GoldenImage:
    """Write the golden.json of a golden image whose copies are there already, and return the image.

    Args:
        folder: of the image.
        blocks: RAMBlocks that were copied, in the order of their files.
        left_out: those that were not.
        gaps: as in `GoldenImage`; only blocks with an entry get one.
    """
    entries = [
        {
            "idstr": block.idstr,
            "bytes": block.used_bytes,
            "file": copy_in(folder, number).name,
            **({"gaps": gaps[block.idstr]} if block.idstr in gaps else {}),
        }
        for number, block in enumerate(blocks)
    ]
    content = {
        "version": 1,
        "page_size": TARGET_PAGE_BYTES,
        "blocks": entries,
        "left_out": [{"idstr": block.idstr, "bytes": block.used_bytes} for block in left_out],
    }
    (folder / "golden.json").write_text(json.dumps(content, indent=1) + "\n")
    return GoldenImage(folder, tuple(blocks), gaps)


def parse_ramblocks(text: str) -> tuple[RamBlock, ...]:
    """Return the RAMBlocks of a stream that the human monitor's `info ramblock` lists in `text`."""
    return tuple(
        RamBlock(line.idstr, line.used_bytes, line.host_address)
        for line in parse_block_lines(text)
        if line.idstr
    )


def ramblocks(machine: Machine) -> tuple[RamBlock, ...]:
    """Return the RAMBlocks of a machine, each with its address in QEMU.

    QEMU before 8.2 does not print the address. There it is found through `info mtree -f` and `gpa2hva`, and
    stays 0 for a block that is not mapped into the guest.

    Raises:
        SetupBroken: the output of `info ramblock` has no line that can be parsed.
    """
    blocks = parse_ramblocks(machine.hmp("info ramblock"))
    if not blocks:
        raise SetupBroken(
            "QEMU's 'info ramblock' lists no RAMBlock in a form known to snapproof; its output may have "
            "changed in this QEMU version."
        )
    if all(block.host_address for block in blocks):
        return blocks
    return tuple(_located(machine, block) for block in blocks)


def main_block(machine: Machine) -> RamBlock:
    """Return the largest RAMBlock: the guest's main RAM, if that is a single block."""
    return max(ramblocks(machine), key=lambda block: block.used_bytes)


def _located(machine: Machine, block: RamBlock) -> RamBlock:
    """Find a block's address through the memory tree, for a QEMU whose `info ramblock` does not print it."""
    for place in parse_ranges(machine.hmp("info mtree -f")).get(region_of(block.idstr), []):
        if not place.in_cpu_space:
            continue
        answer = re.search(r"is 0x([0-9a-f]+)", machine.hmp(f"gpa2hva {place.address:#x}"))
        if answer:
            return RamBlock(block.idstr, block.used_bytes, int(answer[1], 16) - place.offset)
    return block


def dump_golden(machine: Machine, folder: Path) -> GoldenImage:
    """Copy every RAMBlock of a stopped guest out of QEMU's memory.

    A block whose address cannot be found (before QEMU 8.2: firmware tables that are not mapped into the
    guest) is listed in golden.json as left out, by name and size, and is not compared.

    Args:
        machine: its guest must be stopped, or the image is torn.
        folder: created; receives golden.json and one sparse raw file per block.

    Raises:
        MachineryMissing: the host does not allow reading QEMU's memory.
        SetupBroken: QEMU's memory cannot be read, or the address of the main RAM is unknown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = ramblocks(machine)
    blocks = tuple(block for block in found if block.host_address)
    if not max(found, key=lambda block: block.used_bytes).host_address:
        raise SetupBroken(
            "QEMU does not tell the address of the guest's main RAM (neither 'info ramblock' nor 'gpa2hva' "
            "does), so no golden image can be made."
        )
    for number, block in enumerate(blocks):
        _copy_block(machine, block, copy_in(folder, number))
    return write_golden_index(folder, blocks, [block for block in found if not block.host_address], {})


def read_block(machine: Machine, block: RamBlock) -> Iterator[bytes]:
    """Yield the bytes of one block in chunks, read through /proc/PID/mem.

    Raises:
        MachineryMissing: the host forbids it (ptrace restrictions).
        SetupBroken: QEMU's memory cannot be read.
    """
    for _offset, data in _read_pieces(machine, block, [(0, block.used_bytes)]):
        yield data


def differing_pages(machine: Machine, block: RamBlock, image: Path) -> Iterator[int]:
    """Yield the offsets of pages of a block that differ from a copy of it.

    Args:
        machine: whose RAM is read.
        block: one of its RAMBlocks.
        image: raw file with the copy.

    Raises:
        MachineryMissing, SetupBroken: as for read_block.
    """
    offset = 0
    with image.open("rb") as file:
        for data in read_block(machine, block):
            then = file.read(len(data))
            if then != data:
                size = min(len(then), len(data)) // TARGET_PAGE_BYTES * TARGET_PAGE_BYTES
                pages = [
                    np.frombuffer(one[:size], np.uint8).reshape(-1, TARGET_PAGE_BYTES) for one in (then, data)
                ]
                for page in np.flatnonzero((pages[0] != pages[1]).any(axis=1)).tolist():
                    yield offset + page * TARGET_PAGE_BYTES
            offset += len(data)


def read_populated(machine: Machine, block: RamBlock) -> Iterator[tuple[int, bytes]]:
    """Yield host address and bytes of the pages of a block that are in RAM or swap, neighbours in one piece.

    Other pages are not read: reading a page that was never touched maps one, and shared RAM then takes host
    memory.

    Raises:
        MachineryMissing, SetupBroken: as for read_block.
    """
    yield from read_pages(machine, block, populated_pages(machine, block))


def read_pages(
    machine: Machine, block: RamBlock, pages: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, bytes]]:
    """Yield host address and bytes of selected pages of a block, neighbours in one piece.

    Args:
        machine: whose RAM is read.
        block: one of its RAMBlocks.
        pages: bool[host pages], True for those to read.

    Raises:
        MachineryMissing, SetupBroken: as for read_block.
    """
    padded = np.concatenate(([False], pages, [False]))
    edges = np.minimum(np.flatnonzero(padded[1:] != padded[:-1]) * libc.PAGE_BYTES, block.used_bytes)
    pieces = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    for offset, data in _read_pieces(machine, block, pieces):
        yield block.host_address + offset, data


def _read_pieces(
    machine: Machine, block: RamBlock, pieces: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes, in chunks, of ranges of a block given as (start, end) offsets."""
    try:
        with Path(f"/proc/{known_pid(machine)}/mem").open("rb", buffering=0) as memory:
            for start, end in pieces:
                for offset in range(start, end, _CHUNK_BYTES):
                    memory.seek(block.host_address + offset)
                    wanted = min(_CHUNK_BYTES, end - offset)
                    data = memory.read(wanted)
                    if len(data) != wanted:
                        raise SetupBroken(
                            f"/proc/PID/mem gave {len(data)} of {wanted} bytes of QEMU's RAMBlock "
                            f"'{block.idstr}' at offset {offset:#x}."
                        )
                    yield offset, data
    except PermissionError as error:
        raise MachineryMissing(
            "This host does not allow reading QEMU's memory (/proc/PID/mem); allow a process to ptrace its "
            "children (sysctl kernel.yama.ptrace_scope=1 or 0)."
        ) from error
    except OSError as error:
        raise SetupBroken(
            f"The RAMBlock '{block.idstr}' cannot be read from QEMU's memory: {error.strerror}."
        ) from error


def _copy_block(machine: Machine, block: RamBlock, path: Path) -> None:
    zero = bytes(_CHUNK_BYTES)
    with path.open("wb") as image:
        for data in read_block(machine, block):
            if data == zero[: len(data)]:
                image.seek(len(data), 1)
            else:
                image.write(data)
        image.truncate(block.used_bytes)


def populated_pages(machine: Machine, block: RamBlock) -> npt.NDArray[np.bool_]:
    """Return which pages of a block are in RAM or swap: bool[host pages], True for zero pages too.

    Raises:
        SetupBroken: QEMU's pagemap cannot be read.
    """
    found: npt.NDArray[np.bool_] = pagemap_entries(machine, block) & _POPULATED != 0
    return found


def populated_bytes(machine: Machine, block: RamBlock) -> int:
    """Return the bytes of a block that are in RAM or swap.

    Raises:
        SetupBroken: QEMU's pagemap cannot be read.
    """
    return int(populated_pages(machine, block).sum()) * libc.PAGE_BYTES


def pagemap_entries(machine: Machine, block: RamBlock) -> npt.NDArray[np.uint64]:
    """Return QEMU's pagemap entries for a block, one per page of the host: uint64[host pages].

    Raises:
        SetupBroken: QEMU's pagemap cannot be read.
    """
    page_bytes = libc.PAGE_BYTES
    try:
        with Path(f"/proc/{known_pid(machine)}/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(block.host_address // page_bytes * 8)
            return np.frombuffer(pagemap.read(-(-block.used_bytes // page_bytes) * 8), dtype="<u8")
    except OSError as error:
        raise SetupBroken(f"QEMU's pagemap cannot be read: {error.strerror}.") from error


def unlocated_blocks(machine: Machine) -> tuple[str, ...]:
    """Return the names of RAMBlocks whose address QEMU does not say; nobody can look at their pages."""
    return tuple(block.idstr for block in ramblocks(machine) if not block.host_address)


def write_protected_pages(machine: Machine) -> int | None:
    """Count the host pages of guest RAM that userfaultfd still write-protects; None if pagemap is unreadable.

    Reads bit 57 of QEMU's pagemap: in Linux since 5.14, readable by the owner of the process.
    """
    blocks = [block for block in ramblocks(machine) if block.host_address]
    try:
        return sum(int(np.count_nonzero(pagemap_entries(machine, block) & _UFFD_WP_BIT)) for block in blocks)
    except (SetupBroken, MachineryMissing):
        return None
