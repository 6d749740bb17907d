"""Extracts RAM by RAMBlock and device state from a vmstate file, into files with names of our own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import SetupBroken, SnapshotWrong
from validators.vmstate.devices import decode_devices
from validators.vmstate.facts import describe
from validators.vmstate.pages import Numbers, PageReader
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Block
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

INDEX_FILE = "golden.json"
DEVICES_FILE = "devices.json"
_IOV_LIMIT = 256


def extract(path: Path, folder: Path, *, offset: int = 0) -> dict[str, Any]:
    """Write RAM and device state of a vmstate file into a new folder.

    The folder can serve as a golden image: golden.json lists block-000.ram and so on with idstr, length and
    number of missing pages of each. Zero and missing pages are holes. devices.json has the decoded device
    state. No name from the file is used as a path. After a failure or an interruption all that was written
    is removed.

    Returns:
        The content of golden.json.

    Raises:
        UsageError: there is no vmstate stream at that offset.
        SnapshotWrong: the stream is damaged before the end of RAM.
        SetupBroken: the folder cannot be written.
    """
    with open_source(path) as source:
        index = read_index(source, offset)
        if index.damage is not None:
            raise SnapshotWrong(f"The file '{path}' cannot be extracted: {index.damage.sentence}")
        reader = PageReader(source, index)
        try:
            with _whole_or_nothing(folder) as made:
                entries = []
                for number, block in enumerate(index.blocks):
                    made.append(folder / f"block-{number:03}.ram")
                    entries.append(_extract_block(reader, block, made[-1]))
                made += [folder / DEVICES_FILE, folder / INDEX_FILE]
                devices = decode_devices(source, index)
                (folder / DEVICES_FILE).write_text(json.dumps(devices, indent=1))
                content = {
                    "version": 1,
                    "page_size": index.page_size,
                    "blocks": entries,
                    "facts": describe(index),
                }
                (folder / INDEX_FILE).write_text(json.dumps(content, indent=1))
        except OSError as error:
            raise SetupBroken(f"The folder '{folder}' cannot be written: {error.strerror}.") from error
        except StreamError as error:
            raise SnapshotWrong(f"The file '{path}' cannot be extracted: {error.sentence}") from error
    return content


@contextlib.contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[list[Path]]:
    """Make a folder, and yield a list of files; after an exception those files are removed again."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _extract_block(reader: PageReader, block: Block, target: Path) -> dict[str, Any]:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(descriptor, block.used_length)
        for batch in reader.batches(block):
            for first, last in _runs(batch.pages):
                _write(descriptor, batch.rows[first:last], int(batch.pages[first]) * block.page_size)
    finally:
        os.close(descriptor)
    missing = int((block.page_source == 0).sum())
    return {"idstr": block.idstr, "bytes": block.used_length, "file": target.name, "missing_pages": missing}


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
