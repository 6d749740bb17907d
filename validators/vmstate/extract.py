"""Extracts RAM by RAMBlock and device state from a vmstate file, into files with names of our own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import SetupBroken, SnapshotWrong, UsageError
from validators.native.library import native_core
from validators.vmstate.containers.opening import open_stream
from validators.vmstate.devices import decode_devices
from validators.vmstate.facts import describe
from validators.vmstate.pages import Numbers, PageReader
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Block
from validators.vmstate.stream.reader import read_index

INDEX_FILE = "golden.json"
DEVICES_FILE = "devices.json"
_BLOCK_FILE = re.compile(r"block-\d+\.ram")
_IOV_LIMIT = 256


def extract(path: Path, folder: Path, *, offset: int = 0, snapshot: str = "") -> dict[str, Any]:
    """Write RAM and device state of a vmstate file into a folder, over no file that is there.

    The folder can serve as a golden image: golden.json lists block-000.ram and so on with idstr, length and
    number of missing pages of each. Zero and missing pages are holes. devices.json has the decoded device
    state. No name from the file is used as a path. After a failure or an interruption all that was written
    is removed.

    Returns:
        The content of golden.json.

    Raises:
        UsageError: there is no vmstate stream at that offset, or the folder holds such files already.
        SnapshotWrong: the stream is damaged before the end of RAM.
        SetupBroken: the folder cannot be written.
    """
    require_room_for_extraction(folder)
    with open_stream(path, offset, snapshot) as opened:
        source = opened.source
        index = read_index(source, opened.start, opened.ends_file)
        if index.damage is not None:
            raise SnapshotWrong(f"The file '{path}' cannot be extracted: {index.damage.sentence}")
        reader = PageReader(source, index)
        try:
            with _whole_or_nothing(folder) as made:
                entries = []
                for number, block in enumerate(index.blocks):
                    with made.new(f"block-{number:03}.ram") as target:
                        entries.append(_extract_block(reader, block, target))
                with made.new(DEVICES_FILE) as target:
                    target.write(json.dumps(decode_devices(source, index), indent=1).encode())
                content = {
                    "version": 1,
                    "page_size": index.page_size,
                    "blocks": entries,
                    "facts": describe(index, opened.containers),
                }
                with made.new(INDEX_FILE) as target:
                    target.write(json.dumps(content, indent=1).encode())
        except OSError as error:
            raise SetupBroken(f"The folder '{folder}' cannot be written: {error.strerror}.") from error
        except StreamError as error:
            raise SnapshotWrong(f"The file '{path}' cannot be extracted: {error.sentence}") from error
    return content


def is_extracted_name(name: str) -> bool:
    """Tell whether `extract` may write a file of that name."""
    return name in (INDEX_FILE, DEVICES_FILE) or _BLOCK_FILE.fullmatch(name) is not None


def require_room_for_extraction(folder: Path) -> None:
    """Check that a folder can receive an extraction without the loss of a file, such as a golden image.

    Raises:
        UsageError: it is a file, cannot be read, or has files of the names that `extract` writes.
    """
    try:
        names = sorted(path.name for path in folder.iterdir()) if os.path.lexists(folder) else []
    except OSError as error:
        raise UsageError(f"--extract cannot use '{folder}': {error.strerror}.") from error
    found = next(filter(is_extracted_name, names), None)
    if found is not None:
        raise UsageError(f"'{folder}' already holds '{found}'; name a new folder with --extract.")


class _NewFiles:
    """Files that are made in a folder, none of which was there before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Path] = []

    def new(self, name: str) -> BufferedWriter:
        """Make a file; raises FileExistsError where there is one, or a link."""
        path = self._folder / name
        stream = path.open("xb")
        self._made.append(path)
        return stream

    def remove(self) -> None:
        """Remove the files again."""
        for path in self._made:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[_NewFiles]:
    """Make a folder, and yield what makes files in it; after an exception those files are removed again."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    made = _NewFiles(folder)
    try:
        yield made
    except BaseException:
        made.remove()
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _extract_block(reader: PageReader, block: Block, target: BufferedWriter) -> dict[str, Any]:
    os.ftruncate(target.fileno(), block.used_length)
    write_pages(reader, block, target.fileno())
    missing = int((block.page_source == 0).sum())
    name = Path(target.name).name
    return {"idstr": block.idstr, "bytes": block.used_length, "file": name, "missing_pages": missing}


def write_pages(reader: PageReader, block: Block, descriptor: int, first_page: int = 0) -> None:
    """Write a block's pages with data into a file, in which page 0 of the block is page `first_page`.

    Raises:
        OSError: it cannot be written.
        StreamError: the vmstate file became shorter while it was read.
    """
    core = native_core()
    if core is not None:
        for _ in reader.each_by_core(
            block,
            lambda _, file, pages, places: core.copy(
                file, places, pages + first_page, block.page_size, descriptor
            ),
        ):
            pass
        return
    for batch in reader.batches(block):
        for first, last in _runs(batch.pages):
            offset = (int(batch.pages[first]) + first_page) * block.page_size
            _write(descriptor, batch.rows[first:last], offset)


def _runs(pages: Numbers) -> list[tuple[int, int]]:
    """Cut pages into runs of neighbours that are short enough for one write, as slices of the array."""
    cuts = set((np.flatnonzero(np.diff(pages) != 1) + 1).tolist()) | set(range(0, len(pages), _IOV_LIMIT))
    ends = sorted(cuts | {0, len(pages)})
    return list(itertools.pairwise(ends))


def _write(descriptor: int, rows: np.ndarray[Any, np.dtype[np.uint8]], offset: int) -> None:
    size = rows.shape[1]
    done = os.pwritev(descriptor, list(rows), offset)
    while done < rows.size:
        # A short write: continue inside the page at which it stopped.
        row, inside = divmod(done, size)
        done += os.pwrite(descriptor, rows[row, inside:].tobytes(), offset + done)
