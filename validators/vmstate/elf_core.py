"""Writes main RAM of a vmstate file as an ELF core by guest-physical address, for crash, drgn and gdb.

The form is that of QEMU 10.0 dump/dump.c without paging: a PT_LOAD for each range of memory, a note with the
vmcoreinfo of Linux. It has no notes of processors, and only main RAM, also where firmware or a display hides
it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.elf_core import Segment
from harness.errors import SetupBroken, SnapshotWrong, UsageError
from harness.qemu.architectures import elf_machine_of, is_little_endian
from validators.vmstate.cmos_memory import agrees_with_cmos
from validators.vmstate.containers.opening import open_stream
from validators.vmstate.extract import write_pages
from validators.vmstate.memory_map import Region, machine_map, ram_blocks, type_of_machine
from validators.vmstate.pages import PageReader
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import Source
from validators.vmstate.vmcoreinfo import find_vmcoreinfo, release_of

# System V ABI, ELF header and program header; Linux include/uapi/linux/elf.h.
_CLASS_64, _LITTLE, _BIG, _VERSION = 2, 1, 2, 1
_ET_CORE, _PT_LOAD, _PT_NOTE = 4, 1, 4
_HEADER, _PROGRAM_HEADER = "HHIQQQIHHHHHH", "IIQQQQQQ"
_HEADER_BYTES, _PROGRAM_HEADER_BYTES = 64, 56
# Linux 6.12 include/linux/vmcore_info.h and kernel/vmcore_info.c: update_vmcoreinfo_note().
_NOTE_NAME, _NOTE_TYPE = b"VMCOREINFO\0", 0
_MOST_SEGMENTS = 64
_MOST_NAMES = 8


@dataclass(frozen=True)
class ElfCore:
    """What an ELF core has that was written.

    Attributes:
        segments: the ranges of guest-physical memory.
        release: the version of Linux whose vmcoreinfo it has, "" for none.
        vmcoreinfos: how many different ones were found.
        missing_pages: number of pages that the vmstate file does not have, and that are zero here.
        left_out: names of the RAMBlocks that are not in it.
    """

    segments: tuple[Segment, ...]
    release: str
    vmcoreinfos: int
    missing_pages: int
    left_out: tuple[str, ...]

    def sentences(self) -> Iterator[str]:
        """Yield what a user must know of it."""
        if self.release:
            yield f"It has the vmcoreinfo of Linux {self.release}."
        elif self.vmcoreinfos:
            yield f"RAM has {self.vmcoreinfos} different vmcoreinfos of Linux, so none was taken."
        else:
            yield "RAM has no vmcoreinfo of Linux, so tools must be told which kernel it is."
        if self.missing_pages:
            yield f"{self.missing_pages:,} pages that are missing in the file are zero in it."
        if self.left_out:
            more = ", ..." if len(self.left_out) > _MOST_NAMES else ""
            yield f"Not in it: {', '.join(self.left_out[:_MOST_NAMES])}{more}."


def write_elf_core(path: Path, target: Path, *, offset: int = 0, snapshot: str = "") -> ElfCore:
    """Write main RAM of a vmstate file as a new ELF core; zero and missing pages are holes in it.

    Its header is written last, so what is left after a loss of power is no ELF file. After a failure or an
    interruption the file is removed.

    Raises:
        UsageError: there is no vmstate stream at that offset, the addresses of its RAM are not known, or the
            target exists.
        SnapshotWrong: the stream is damaged before the end of RAM.
        SetupBroken: the target cannot be written.
    """
    with open_stream(path, offset, snapshot) as opened:
        index = read_index(opened.source, opened.start, opened.ends_file)
        if index.damage is not None:
            raise _cannot(path, index.damage.sentence)
        layout = _known_layout(path, opened.source, index)
        try:
            return _write_new(target, PageReader(opened.source, index), layout)
        except FileExistsError as error:
            raise UsageError(f"'{target}' exists already; name a new file with --elf.") from error
        except OSError as error:
            raise SetupBroken(f"The ELF core '{target}' cannot be written: {error.strerror}.") from error
        except StreamError as error:
            raise _cannot(path, error.sentence) from error


def _cannot(path: Path, sentence: str) -> SnapshotWrong:
    return SnapshotWrong(f"The file '{path}' cannot be written as an ELF core: {sentence}")


@dataclass(frozen=True)
class _Layout:
    """Where main RAM lies for the guest's processors.

    Attributes:
        elf_machine: their number in an ELF header, in their byte order.
        regions: the parts of RAMBlocks that they see.
    """

    elf_machine: bytes
    regions: tuple[Region, ...]


def _known_layout(path: Path, source: Source, index: SnapshotIndex) -> _Layout:
    """Return the layout of a file's main RAM.

    Raises:
        UsageError: that is not known for certain.
    """
    machine = f"The file '{path}' is of machine '{index.configuration.machine}'"
    machine_type, memory = type_of_machine(index), machine_map(index)
    if machine_type is None or memory is None:
        raise UsageError(f"{machine}, whose memory layout is not known here, so --elf cannot be done.")
    elf_machine = elf_machine_of(machine_type)
    if elf_machine is None:
        raise UsageError(f"{machine}, whose guests can have either byte order, so --elf cannot be done.")
    blocks = [index.blocks[number] for number in ram_blocks(index)]
    if any(map(index.left_out, blocks)):
        raise UsageError(f"The file '{path}' has no main RAM, because x-ignore-shared left it out.")
    size = sum(block.used_length for block in blocks)
    regions = memory.regions
    if size > (machine_type.most_ram or size) or len(regions) > _MOST_SEGMENTS:
        raise UsageError(f"{machine} with {size:,} bytes of RAM, whose layout is not known here for --elf.")
    above = sum(region.length for region in regions if region.gpa >= machine_type.split_start)
    agrees = None if machine_type.most_below is None else agrees_with_cmos(source, index, size - above, above)
    usual = [block.idstr for block in blocks] == [machine_type.ram_block] if agrees is None else agrees
    if not usual or not regions:
        raise UsageError(
            f"{machine}, but its main RAM does not lie as is usual there (max-ram-below-4g, or a memory "
            "backend), so --elf cannot be done."
        )
    return _Layout(elf_machine, regions)


def _write_new(target: Path, reader: PageReader, layout: _Layout) -> ElfCore:
    with target.open("xb") as file:
        try:
            return _write(file.fileno(), reader, layout)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _write(descriptor: int, reader: PageReader, layout: _Layout) -> ElfCore:
    index = reader.index
    numbers = list(dict.fromkeys(region.block for region in layout.regions))
    texts = find_vmcoreinfo(reader, [index.blocks[number] for number in numbers])
    little = is_little_endian(layout.elf_machine)
    note = _note(texts[0], little) if len(texts) == 1 else b""
    # Each RAMBlock lies in the file as a whole, so that its pages are copied in one pass.
    at = -(-(_HEADER_BYTES + _PROGRAM_HEADER_BYTES * (1 + _MOST_SEGMENTS) + len(note)) // index.page_size)
    first_pages = {}
    for number in numbers:
        first_pages[number] = at
        at += index.blocks[number].pages
    os.ftruncate(descriptor, at * index.page_size)
    for number in numbers:
        write_pages(reader, index.blocks[number], descriptor, first_pages[number])
    segments = tuple(
        Segment(region.gpa, region.length, first_pages[region.block] * index.page_size + region.offset)
        for region in layout.regions
    )
    head = _header(layout.elf_machine, segments, len(note))
    os.pwrite(descriptor, head[_HEADER_BYTES:] + note, _HEADER_BYTES)
    os.pwrite(descriptor, head[:_HEADER_BYTES], 0)
    return ElfCore(
        segments,
        release_of(texts[0]) if note else "",
        len(texts),
        sum(int((index.blocks[number].page_source == 0).sum()) for number in numbers),
        tuple(block.idstr for number, block in enumerate(index.blocks) if number not in first_pages),
    )


def _note(text: bytes, little: bool) -> bytes:
    """Return an ELF note with the vmcoreinfo, padded to whole words."""
    head = struct.pack("<III" if little else ">III", len(_NOTE_NAME), len(text), _NOTE_TYPE)
    return head + b"".join(part + bytes(-len(part) % 4) for part in (_NOTE_NAME, text))


def _header(elf_machine: bytes, segments: Sequence[Segment], note_bytes: int) -> bytes:
    """Return ELF header and program headers, behind which the note lies."""
    little = is_little_endian(elf_machine)
    order = "<" if little else ">"
    count = len(segments) + bool(note_bytes)
    ident = b"\x7fELF" + bytes([_CLASS_64, _LITTLE if little else _BIG, _VERSION]).ljust(12, b"\0")
    number = int.from_bytes(elf_machine, "little" if little else "big")
    head = ident + struct.pack(
        order + _HEADER, _ET_CORE, number, _VERSION, 0, _HEADER_BYTES, 0, 0, _HEADER_BYTES,
        _PROGRAM_HEADER_BYTES, count, 0, 0, 0,
    )  # fmt: skip
    if note_bytes:
        at = _HEADER_BYTES + _PROGRAM_HEADER_BYTES * count
        head += struct.pack(order + _PROGRAM_HEADER, _PT_NOTE, 0, at, 0, 0, note_bytes, note_bytes, 4)
    for one in segments:
        # QEMU 10.0 without paging has the physical address as the virtual one, too.
        addresses = (one.address, one.address)
        head += struct.pack(
            order + _PROGRAM_HEADER, _PT_LOAD, 0, one.file_offset, *addresses, one.size, one.size, 0
        )
    return head
