"""A copy of an undamaged file, in which faults are planted and taken back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from validators.faults.files.subject import Damage, Edit

_COPY_PIECE = 1 << 20
_HOLE_STEP = 512


def write_damaged(source: Path, damage: Damage, target: Path) -> None:
    """Write a copy of `source` with the edits of `damage` applied; zeros become holes."""
    with source.open("rb") as original, target.open("wb") as copy:
        _write_from(original, copy, 0, damage.edits)


class Workbench:
    """One copy of a file for many faults: only the bytes that a fault changes are written, and restored.

    A fault that moves the bytes behind it costs writing the rest of the file.
    """

    def __init__(self, source: Path, copy: Path) -> None:
        """Make the copy.

        Raises:
            OSError: the copy cannot be written, as on a full disk.
        """
        self.path = copy
        self._source = source
        write_damaged(source, Damage.none(), copy)

    @contextmanager
    def damaged(self, damage: Damage) -> Iterator[Path]:
        """Plant a fault in the copy for the length of the `with`."""
        moves = any(len(edit.data) != edit.length for edit in damage.edits)
        with self._source.open("rb") as original, self.path.open("r+b") as copy:
            start = min(edit.offset for edit in damage.edits)
            if moves:
                _write_from(original, copy, start, damage.edits)
            else:
                for edit in damage.edits:
                    os.pwrite(copy.fileno(), edit.data, edit.offset)
            yield self.path
            if moves:
                _write_from(original, copy, start, ())
            else:
                for edit in damage.edits:
                    data = os.pread(original.fileno(), edit.length, edit.offset)
                    os.pwrite(copy.fileno(), data, edit.offset)


def _write_from(original: BinaryIO, copy: BinaryIO, start: int, edits: Sequence[Edit]) -> None:
    """Write the copy anew from offset `start` on, with edits that are all behind it."""
    size = os.fstat(original.fileno()).st_size
    copy.truncate(start)
    copy.seek(start)
    at = start
    for edit in (*edits, Edit(size, 0, b"")):
        original.seek(at)
        while at < edit.offset:
            piece = original.read(min(_COPY_PIECE, edit.offset - at))
            at += len(piece)
            # Pieces of zeros become holes: a mapped-ram file has many.
            if any(piece[::_HOLE_STEP]) or any(piece):
                copy.write(piece)
            else:
                copy.seek(len(piece), os.SEEK_CUR)
        copy.write(edit.data)
        at = edit.offset + edit.length
        original.seek(at)
    copy.truncate()
    copy.flush()
