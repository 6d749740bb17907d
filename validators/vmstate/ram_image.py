"""Indexes a file that has guest RAM and nothing else: an ELF core, or a flat image as other VMMs write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.elf_core import HEAD_BYTES, BadCore, Segment, core_segments, is_elf_core
from harness.errors import UsageError
from harness.qemu.architectures import TARGET_PAGE_BYTES
from validators.verdict import Facts
from validators.vmstate.containers.libvirt import is_save_image
from validators.vmstate.stream.format import MAGIC
from validators.vmstate.stream.index import Block, Configuration, Duplicates, SnapshotIndex
from validators.vmstate.stream.source import FileSource, open_source

# Each page takes 8 bytes of memory: 2 GiB for these.
_MOST_BYTES = 1 << 40
# A dump of a guest has tens, a core of a VMM's process hundreds.
_MOST_SEGMENTS = 1024
# No address of RAM is above; it still fits in an int64 after any sum.
_MOST_ADDRESS = 1 << 56


def begins_as_core(path: Path, offset: int) -> bool:
    """Tell by what is at an offset of a regular file whether it is an ELF core."""
    with open_source(path) as source:
        return is_elf_core(source.read(offset, HEAD_BYTES))


def index_of_image(source: FileSource, offset: int, raw: bool) -> tuple[SnapshotIndex, Facts]:
    """Return the index of a RAM image, and facts about it for a person.

    Args:
        source: the file.
        offset: where the image begins.
        raw: it is a flat image; otherwise it is an ELF core.

    Raises:
        UsageError: it cannot be such an image, is cut, or is larger than we read.
    """
    if raw:
        segments: Sequence[Segment] = (_whole_file(source, offset),)
        blocks = _blocks(offset, segments, ("raw image",), addresses=False)
    else:
        segments = _of_core(source, offset)
        names = tuple(f"segment {number}" for number in range(len(segments)))
        blocks = _blocks(offset, segments, names, addresses=_can_be_guest_memory(segments))
    pages = sum(block.pages for block in blocks)
    if not pages:
        raise UsageError(f"'{source.path}' has not one whole page of RAM; name a file with guest RAM.")
    facts: Facts = {
        "file": "raw image of guest RAM" if raw else "ELF core",
        "page size": TARGET_PAGE_BYTES,
        "pieces of RAM": len(blocks),
        "RAM bytes": pages * TARGET_PAGE_BYTES,
    }
    if absent := sum(segment.absent for segment in segments):
        facts["bytes of memory that are not in the core"] = absent
    return _index(source, offset, blocks, pages), facts


def _whole_file(source: FileSource, offset: int) -> Segment:
    head = source.read(offset, HEAD_BYTES)
    if head.startswith(MAGIC.to_bytes(4, "big")) or is_save_image(head) or is_elf_core(head):
        what = "an ELF core" if is_elf_core(head) else "a vmstate stream"
        raise UsageError(
            f"By its content '{source.path}' is {what} and no raw image; check it without --raw."
        )
    size = source.size - offset
    if size <= 0 or size % TARGET_PAGE_BYTES:
        raise UsageError(
            f"'{source.path}' has {max(0, size)} bytes from offset {offset} on, which is no whole number of "
            f"pages of {TARGET_PAGE_BYTES} bytes. It is cut or no raw image; a header before RAM is passed "
            "over by --offset."
        )
    _require_bounded(source, size)
    return Segment(0, size, 0)


def _of_core(source: FileSource, offset: int) -> tuple[Segment, ...]:
    try:
        segments = core_segments(lambda at, length: source.read(offset + at, length), source.size - offset)
    except BadCore as error:
        raise UsageError(f"The ELF core '{source.path}' {error}. It was not judged.") from error
    if len(segments) > _MOST_SEGMENTS:
        raise UsageError(
            f"The ELF core '{source.path}' has {len(segments)} segments of memory, and {_MOST_SEGMENTS} are "
            "read at most."
        )
    end = 0
    for segment in sorted(segments, key=lambda one: one.file_offset):
        if segment.size and segment.file_offset < end:
            raise UsageError(
                f"In the ELF core '{source.path}' two segments share the bytes from {segment.file_offset} "
                "on, as no program writes it; its header is damaged."
            )
        end = max(end, segment.file_offset + segment.size)
    _require_bounded(source, sum(segment.size for segment in segments))
    return segments


def _require_bounded(source: FileSource, size: int) -> None:
    if size > _MOST_BYTES:
        raise UsageError(
            f"'{source.path}' has {size} bytes of RAM, and a RAM image is read up to {_MOST_BYTES >> 40} TiB."
        )


def _can_be_guest_memory(segments: Sequence[Segment]) -> bool:
    """Tell whether the addresses of segments can be guest-physical; in the core of a process all are 0."""
    end = 0
    for segment in sorted(segments, key=lambda one: one.address):
        if segment.size and segment.address < end:
            return False
        end = max(end, segment.address + segment.size)
    return end < _MOST_ADDRESS


def _blocks(
    offset: int, segments: Sequence[Segment], names: Sequence[str], addresses: bool
) -> tuple[Block, ...]:
    """Return a block for each segment that has a whole page; guests do not use a part of a page."""
    found = []
    for segment, name in zip(segments, names, strict=True):
        skipped = -segment.address % TARGET_PAGE_BYTES
        pages = (segment.size - skipped) // TARGET_PAGE_BYTES
        if pages <= 0:
            continue
        first = offset + segment.file_offset + skipped
        places = first + np.arange(pages, dtype=np.int64) * TARGET_PAGE_BYTES
        gpa = segment.address + skipped if addresses else None
        found.append(Block(name, pages * TARGET_PAGE_BYTES, TARGET_PAGE_BYTES, places, gpa=gpa))
    return tuple(found)


def _index(source: FileSource, offset: int, blocks: tuple[Block, ...], pages: int) -> SnapshotIndex:
    none = np.zeros(0, np.int64)
    return SnapshotIndex(
        start=offset,
        end=source.size,
        file_size=source.size,
        page_size=TARGET_PAGE_BYTES,
        configuration=Configuration(),
        blocks=blocks,
        sections=(),
        commands=(),
        duplicates=Duplicates(none, none, none, none, np.zeros(0, np.bool_)),
        mapped={},
        end_marker=None,
        vmdesc=None,
        anomalies=(),
        anomaly_counts={},
        damage=None,
        footers=False,
        records={"page": pages},
        is_image=True,
    )
