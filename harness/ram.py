"""Guest RAM seen from the host: the RAMBlocks, their bytes, and their write protection."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.errors import MachineryMissing, SetupBroken
from harness.machine import Machine

_CHUNK_BYTES = 4 << 20
_PAGE_BYTES = 4096
# Linux Documentation/admin-guide/mm/pagemap.rst: bit 57, "pte is uffd-wp write-protected" (5.14+).
_UFFD_WP_BIT = np.uint64(1 << 57)
# Bits 63 and 62 there: the page is in RAM, or in swap.
_IN_PLACE = np.uint64(3 << 62)

# QEMU softmmu/physmem.c ram_block_format(): name, page size, offset, used, total, and since 8.2 the
# host address. Names may hold spaces in principle, never a newline.
_BLOCK_LINE = re.compile(
    r"^\s*(?P<idstr>\S.*?)\s+(?P<psize>\d+ [KMG]iB)\s+0x[0-9a-f]+\s+0x(?P<used>[0-9a-f]+)\s+"
    r"0x[0-9a-f]+(?:\s+(?:0x(?P<hva>[0-9a-f]+)))?",
    re.MULTILINE,
)


@dataclass(frozen=True)
class RamBlock:
    """One RAMBlock of a running QEMU.

    Attributes:
        idstr: its name in the vmstate stream, e.g. ``pc.ram``.
        used_bytes: used length in bytes, what a stream carries.
        host_address: where it lies in QEMU's own address space, 0 where QEMU does not say.
    """

    idstr: str
    used_bytes: int
    host_address: int


@dataclass(frozen=True)
class GoldenImage:
    """Guest RAM dumped while the guest was stopped; `folder` holds golden.json and a file per block."""

    folder: Path
    blocks: tuple[RamBlock, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of RAM in the image."""
        return sum(block.used_bytes for block in self.blocks)


def parse_ramblocks(text: str) -> tuple[RamBlock, ...]:
    """The blocks in the text of the human monitor's `info ramblock`."""
    return tuple(
        RamBlock(match["idstr"], int(match["used"], 16), int(match["hva"] or "0", 16))
        for match in _BLOCK_LINE.finditer(text)
    )


def ramblocks(machine: Machine) -> tuple[RamBlock, ...]:
    """The RAMBlocks of a machine, each with its address in QEMU.

    QEMU before 8.2 does not print the address; there it comes from the process's own mappings and
    `gpa2hva`, for the main RAM only.

    Raises:
        SetupBroken: `info ramblock` has no block that we understand.
    """
    blocks = parse_ramblocks(machine.hmp("info ramblock"))
    if not blocks:
        raise SetupBroken("QEMU's 'info ramblock' lists no RAMBlock in a form we know.")
    if all(block.host_address for block in blocks):
        return blocks
    return tuple(_located(machine, block) for block in blocks)


def main_block(machine: Machine) -> RamBlock:
    """The largest RAMBlock, which is the guest's main memory where that is in one piece."""
    return max(ramblocks(machine), key=lambda block: block.used_bytes)


def _located(machine: Machine, block: RamBlock) -> RamBlock:
    """Find a block's address where `info ramblock` leaves it out, through the memory tree."""
    # A device's own RAM is named after the device's path, its memory region is not.
    name = block.idstr if block.idstr.startswith("/") else block.idstr.rpartition("/")[2]
    for gpa, offset in parse_places(machine.hmp("info mtree -f"), name):
        answer = re.search(r"is 0x([0-9a-f]+)", machine.hmp(f"gpa2hva {gpa:#x}"))
        if answer:
            return RamBlock(block.idstr, block.used_bytes, int(answer[1], 16) - offset)
    return block


def parse_places(text: str, idstr: str) -> list[tuple[int, int]]:
    """Where a block shows in the text of the human monitor's `info mtree -f`.

    A line there reads ``0000000000100000-000000001fffffff (prio 0, ram): pc.ram @0000000000100000``.

    Returns:
        Guest-physical address and offset inside the block, both in bytes, for each range.
    """
    pattern = re.compile(
        rf"^\s*([0-9a-f]{{16}})-[0-9a-f]{{16}} .*?: {re.escape(idstr)}(?: @([0-9a-f]+))?(?!\S)(?! @)",
        re.MULTILINE,
    )
    return [(int(match[1], 16), int(match[2] or "0", 16)) for match in pattern.finditer(text)]


def dump_golden(machine: Machine, folder: Path) -> GoldenImage:
    """Copy every RAMBlock of a stopped guest out of QEMU's memory.

    Blocks whose address cannot be found (before QEMU 8.2: firmware tables that are not mapped into the
    guest) are listed in golden.json as left out, by name and size, and are not compared.

    Args:
        machine: its guest must be stopped, or the image is torn.
        folder: made; receives golden.json and one sparse raw file per block.

    Raises:
        MachineryMissing: the host does not let us read QEMU's memory.
        SetupBroken: the folder cannot be written, or the main RAM's address is unknown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = ramblocks(machine)
    blocks = tuple(block for block in found if block.host_address)
    if not max(found, key=lambda block: block.used_bytes).host_address:
        raise SetupBroken(
            "QEMU does not say where the guest's main RAM lies, so no golden image can be made."
        )
    left_out = [
        {"idstr": block.idstr, "bytes": block.used_bytes} for block in found if not block.host_address
    ]
    index = []
    for number, block in enumerate(blocks):
        name = f"block-{number:03d}.ram"
        _copy_block(machine, block, folder / name)
        index.append({"idstr": block.idstr, "bytes": block.used_bytes, "file": name})
    (folder / "golden.json").write_text(
        json.dumps({"version": 1, "page_size": _PAGE_BYTES, "blocks": index, "left_out": left_out}, indent=1)
        + "\n"
    )
    return GoldenImage(folder, blocks)


def read_block(machine: Machine, block: RamBlock) -> Iterator[bytes]:
    """The bytes of one block in chunks, read through /proc/PID/mem.

    Raises:
        MachineryMissing: the host forbids it (ptrace restrictions).
        SetupBroken: QEMU's memory cannot be read there.
    """
    for _offset, data in _read_pieces(machine, block, [(0, block.used_bytes)]):
        yield data


def read_present(machine: Machine, block: RamBlock) -> Iterator[tuple[int, bytes]]:
    """Host address and bytes of what is in place of a block, in pieces of whole pages.

    Reading a page that was never touched puts one in place, and takes host memory where RAM is shared.

    Raises:
        MachineryMissing, SetupBroken: as for read_block.
    """
    yield from read_pages(machine, block, in_place(machine, block))


def read_pages(
    machine: Machine, block: RamBlock, pages: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, bytes]]:
    """Host address and bytes of some pages of a block, neighbours in one piece.

    Args:
        machine: whose RAM.
        block: one of its RAMBlocks.
        pages: bool[pages], True for those that are wanted.

    Raises:
        MachineryMissing, SetupBroken: as for read_block.
    """
    padded = np.concatenate(([False], pages, [False]))
    edges = np.flatnonzero(padded[1:] != padded[:-1]) * _PAGE_BYTES
    pieces = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    for offset, data in _read_pieces(machine, block, pieces):
        yield block.host_address + offset, data


def _read_pieces(
    machine: Machine, block: RamBlock, pieces: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes, in chunks, of pieces of a block that are given by the offsets of start and end."""
    try:
        with Path(f"/proc/{machine.process.pid}/mem").open("rb", buffering=0) as memory:
            for start, end in pieces:
                for offset in range(start, end, _CHUNK_BYTES):
                    memory.seek(block.host_address + offset)
                    wanted = min(_CHUNK_BYTES, end - offset)
                    data = memory.read(wanted)
                    if len(data) != wanted:
                        raise SetupBroken(
                            f"QEMU's memory of '{block.idstr}' ended early at offset {offset:#x}."
                        )
                    yield offset, data
    except PermissionError as error:
        raise MachineryMissing(
            "This host does not let us read QEMU's memory (/proc/PID/mem); allow ptrace of own children "
            "(kernel.yama.ptrace_scope 0 or 1)."
        ) from error
    except OSError as error:
        raise SetupBroken(f"Could not read '{block.idstr}' from QEMU: {error.strerror}.") from error


def _copy_block(machine: Machine, block: RamBlock, path: Path) -> None:
    zero = bytes(_CHUNK_BYTES)
    with path.open("wb") as image:
        for data in read_block(machine, block):
            if data == zero[: len(data)]:
                image.seek(len(data), 1)
            else:
                image.write(data)
        image.truncate(block.used_bytes)


def in_place(machine: Machine, block: RamBlock) -> npt.NDArray[np.bool_]:
    """Which pages of a block are in place in QEMU's memory: bool[pages], True for zero pages and swap too.

    Raises:
        SetupBroken: QEMU's pagemap cannot be read.
    """
    found: npt.NDArray[np.bool_] = _pagemap(machine, block) & _IN_PLACE != 0
    return found


def populated_bytes(machine: Machine, block: RamBlock) -> int:
    """Bytes of a block whose pages are in place.

    Raises:
        SetupBroken: QEMU's pagemap cannot be read.
    """
    return int(in_place(machine, block).sum()) * _PAGE_BYTES


def _pagemap(machine: Machine, block: RamBlock) -> npt.NDArray[np.uint64]:
    """QEMU's pagemap entry for each page of a block: uint64[pages]."""
    try:
        with Path(f"/proc/{machine.process.pid}/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(block.host_address // _PAGE_BYTES * 8)
            return np.frombuffer(pagemap.read(block.used_bytes // _PAGE_BYTES * 8), dtype="<u8")
    except OSError as error:
        raise SetupBroken(f"QEMU's pagemap cannot be read: {error.strerror}.") from error


def write_protected_pages(machine: Machine) -> int | None:
    """How many pages of guest RAM userfaultfd still write-protects, or None where it cannot be seen.

    Reads bit 57 of QEMU's pagemap, which Linux has since 5.14 and any owner may read.
    """
    blocks = [block for block in ramblocks(machine) if block.host_address]
    try:
        return sum(int(np.count_nonzero(_pagemap(machine, block) & _UFFD_WP_BIT)) for block in blocks)
    except SetupBroken:
        return None
