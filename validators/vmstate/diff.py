"""Compares two vmstate files: pages of each RAMBlock, and device fields by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.errors import SnapshotWrong
from validators.verdict import PageRange, group_ranges
from validators.vmstate.containers.opening import open_stream
from validators.vmstate.devices import decode_devices
from validators.vmstate.digests import digest_pages
from validators.vmstate.pages import PageReader
from validators.vmstate.stream.index import Block
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream_diff import FieldChange, Stream, stream_changes

_MAX_FIELDS = 10_000
_DEPTH = 64


@dataclass(frozen=True)
class Difference:
    """All that differs between two files.

    Attributes:
        pages: byte offsets of differing pages by RAMBlock.
        only_first: RAMBlocks that only the first file has, or has in another length.
        only_second: RAMBlocks that only the second file has, or has in another length.
        stream: configuration, commands, sections and subsections.
        fields: device fields, at most 10,000.
        total_pages: number of differing pages.
        page_size: bytes of a target page of the first file.
    """

    pages: dict[str, list[int]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    stream: tuple[FieldChange, ...]
    fields: tuple[FieldChange, ...]
    total_pages: int
    page_size: int

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.total_pages or self.only_first or self.only_second or self.stream or self.fields)

    @property
    def ranges(self) -> list[PageRange]:
        """Return the differing pages as ranges of neighbours."""
        return group_ranges(self.pages, self.page_size)


def diff_files(
    first: Path, second: Path, *, offsets: tuple[int, int] = (0, 0), snapshots: tuple[str, str] = ("", "")
) -> Difference:
    """Compare two vmstate files page by page (by digest), their sections, and device fields.

    Args:
        first: a file, or "-" for standard input.
        second: another one.
        offsets: byte offset of the stream in each.
        snapshots: internal snapshot of each if it is a qcow2 image, "" for the only one.

    Raises:
        UsageError: one of them is not a vmstate file.
        SnapshotWrong: one of them is damaged before the end of RAM.
    """
    with ExitStack() as stack:
        files = zip((first, second), offsets, snapshots, strict=True)
        readers = [_open(stack, *file) for file in files]
        blocks = [{(block.idstr, block.used_length): block for block in r.index.blocks} for r in readers]
        pages: dict[str, list[int]] = {}
        for key in (key for key in blocks[0] if key in blocks[1]):
            differing = _differing(readers[0], blocks[0][key], readers[1], blocks[1][key])
            if len(differing):
                pages[key[0]] = differing.tolist()
        states = [decode_devices(reader.source, reader.index) for reader in readers]
        return Difference(
            pages,
            tuple(key[0] for key in blocks[0] if key not in blocks[1]),
            tuple(key[0] for key in blocks[1] if key not in blocks[0]),
            tuple(stream_changes(*(Stream(reader.source, reader.index) for reader in readers))),
            tuple(
                change
                for _, change in zip(range(_MAX_FIELDS), _changes("", states[0], states[1]), strict=False)
            ),
            sum(map(len, pages.values())),
            readers[0].index.page_size,
        )


def _open(stack: ExitStack, path: Path, offset: int, snapshot: str) -> PageReader:
    opened = stack.enter_context(open_stream(path, offset, snapshot))
    index = read_index(opened.source, opened.start, opened.ends_file)
    if index.damage is not None:
        raise SnapshotWrong(f"The file '{path}' cannot be compared: {index.damage.sentence}")
    return PageReader(opened.source, index)


def _differing(
    reader: PageReader, block: Block, other: PageReader, other_block: Block
) -> npt.NDArray[np.int64]:
    if block.page_size != other_block.page_size:
        return np.arange(block.pages) * block.page_size
    before, after = digest_pages(reader, block), digest_pages(other, other_block)
    return np.flatnonzero((before != after).any(axis=1)) * block.page_size


def _changes(path: str, before: Any, after: Any, depth: int = _DEPTH) -> Iterator[FieldChange]:
    if before == after:
        return
    if depth and isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            name = f"{path}.{key}" if path else key
            yield from _changes(name, before.get(key), after.get(key), depth - 1)
    elif depth and isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changes(f"{path}[{number}]", old, new, depth - 1)
    else:
        yield FieldChange(path, before, after)
