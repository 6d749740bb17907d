"""Sources of bytes: a regular file, or a pipe that can only be read forwards."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from harness.codes import Code
from harness.errors import SetupBroken, SnapproofError, UsageError
from validators.native.library import CoreFile, native_core
from validators.vmstate.stream.format import StreamError

_RELEASE_STEP = 16 << 20
_ZERO_STEP = 4 << 20
_LARGEST_FOLIO = 2 << 20
# Linux 5.14 include/uapi/asm-generic/mman-common.h; Python's mmap has no name for it.
_MADV_POPULATE_READ = 22


class Source(Protocol):
    """Bytes addressed by absolute file offset.

    Attributes:
        seekable: whether any offset may be read at any time.
        size: bytes in the file, None while unknown (a pipe).
    """

    @property
    def seekable(self) -> bool:
        """Whether any offset may be read at any time."""

    @property
    def size(self) -> int | None:
        """Return the bytes in the file, None if they are not known."""

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`, fewer only at the end."""

    def window(self, offset: int, length: int) -> memoryview:
        """Return up to `length` bytes, from a file without a copy; valid until the next call of release()."""

    def release(self, offset: int) -> None:
        """Free memory: bytes before `offset` are not needed for now."""


class FileSource:
    """A regular file, read or mapped.

    An access to a mapped page that the disk cannot deliver, or behind the end of a file that shrank, is a
    SIGBUS. So the mapping is only used where the kernel has said that the bytes are there, and where the
    native core turns a SIGBUS, which can still come, into an error (validators/native/guard.c).

    Attributes:
        path: its name, for messages.
        descriptor: of the open file.
        populates: whether the last bytes that were asked for are in the mapping, and not a copy.
    """

    seekable = True

    def __init__(self, descriptor: int, path: Path) -> None:
        self.path = path
        self._opened = os.fstat(descriptor)
        self.size: int = self._opened.st_size
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, self.size, prot=mmap.PROT_READ)
        self._view = memoryview(self._map)
        self._released = 0
        self.populates = False
        self._first, self._last, self._mapped_bytes = self.size, 0, 0

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`, fewer only at the end.

        Raises:
            SetupBroken: the disk cannot be read.
        """
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        piece = self._pread(offset, length)
        if len(piece) == length:
            return piece
        pieces = [piece]
        while piece and length > len(piece):
            offset, length = offset + len(piece), length - len(piece)
            piece = self._pread(offset, length)
            pieces.append(piece)
        return b"".join(pieces)

    def read_whole(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` of a page that was seen before.

        Raises:
            StreamError: the file is shorter than when it was opened.
            SetupBroken: the disk cannot be read.
        """
        found = self.read(offset, length)
        if len(found) < length:
            raise self._shrank(offset)
        return found

    def _shrank(self, offset: int) -> StreamError:
        return StreamError(
            Code.TRUNCATED_SHRANK, f"The file {self.path} shrank while it was being read.", offset
        )

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self.descriptor, length, offset)
        except OSError as error:
            raise self._unreadable(error, offset) from error

    def _unreadable(self, error: OSError, offset: int) -> SetupBroken:
        return SetupBroken(
            f"The file '{self.path}' cannot be read at offset {offset}: {error.strerror}. Its disk or file "
            "system fails, which says nothing about the snapshot; check a copy of the file on another disk.",
            code=Code.SETUP_UNREADABLE,
        )

    def window(self, offset: int, length: int) -> memoryview:
        """Return a view of the mapping.

        Raises:
            StreamError: the file is shorter than when it was opened.
            SetupBroken: the disk cannot be read.
        """
        if os.fstat(self.descriptor).st_size < self.size:
            raise self._shrank(offset)
        return self.view(offset, length)

    def release(self, offset: int) -> None:
        """Drop mapped pages before `offset` from this process (they stay in the page cache)."""
        if offset < self._released:
            self._released = 0
        end = offset // _RELEASE_STEP * _RELEASE_STEP
        if end > self._released:
            self._map.madvise(mmap.MADV_DONTNEED, self._released, end - self._released)
            self._released = end

    def next_data(self, offset: int) -> int:
        """Return the file offset of the next byte that is not in a hole, the file's size if there is none.

        Raises:
            SetupBroken: the disk cannot be read.
        """
        try:
            return os.lseek(self.descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.EIO:
                raise self._unreadable(error, offset) from error
            # ENXIO: only a hole is left. A file system that knows no holes says EINVAL; then all is data.
            return self.size if error.errno == errno.ENXIO else offset

    def end_of_data(self) -> int:
        """Return the file offset behind the last byte that is not zero; 0 if all are."""
        end, step = self.size, _ZERO_STEP
        while end:
            start = max(0, end - step)
            if self.next_data(start) >= end:
                # A hole; there may be terabytes of it.
                end, step = start, 2 * step
            elif step > _ZERO_STEP:
                step = _ZERO_STEP
            else:
                data = self.read(start, end - start).rstrip(b"\0")
                if data:
                    return start + len(data)
                end = start
        return 0

    def view(self, offset: int, length: int) -> memoryview:
        """Return what read() does, without a copy if the kernel can map the bytes; valid until forget()."""
        length = max(0, min(length, self.size - offset))
        if self._populate(offset, length):
            return self._view[offset : offset + length]
        return memoryview(self.read(offset, length))

    def _populate(self, offset: int, length: int) -> bool:
        """Map bytes of the file; return whether they can be accessed now.

        False before Linux 5.14, which has no such call, and if the disk fails; then read() reports the error.
        False also without the native core, which alone can survive a file that becomes shorter in between.
        """
        if native_core() is None:
            self.populates = False
            return False
        start = offset - offset % mmap.PAGESIZE
        try:
            self._map.madvise(_MADV_POPULATE_READ, start, offset + length - start)
        except (OSError, ValueError):
            self.populates = False
            return False
        self.populates = True
        return True

    def core_file(self, present: bool = False, threads: int | None = None) -> CoreFile:
        """Return the file for the native core; the arguments are as in CoreFile."""
        return CoreFile(self.descriptor, self._address, self.size, present, threads)

    @cached_property
    def _address(self) -> int:
        return int(np.frombuffer(self._map, np.uint8).ctypes.data)

    def fill(self, buffer: memoryview, pieces: Iterable[tuple[int, int, int]]) -> int:
        """Fill a buffer with pieces of the file, with one system call for each.

        Args:
            buffer: what to fill.
            pieces: for each the start and end in the buffer and the offset in the file, in bytes.

        Returns:
            The number of bytes read; fewer than asked for only at the end of the file.

        Raises:
            SetupBroken: the disk cannot be read.
        """
        done, descriptor, read = 0, self.descriptor, os.preadv
        try:
            for start, end, offset in pieces:
                done += read(descriptor, (buffer[start:end],), offset)
        except OSError as error:
            raise self._unreadable(error, offset) from error
        return done

    def forget(self, offset: int, length: int) -> None:
        """Note that mapped pages are no longer needed; they are unmapped from time to time."""
        self._first = min(self._first, offset)
        self._last = max(self._last, offset + length)
        self._mapped_bytes += length
        if self._mapped_bytes >= _RELEASE_STEP:
            # Linux 6.18 maps a whole folio (up to a huge page) for an access to any part of it.
            start = max(0, self._first - _LARGEST_FOLIO) // mmap.PAGESIZE * mmap.PAGESIZE
            end = min(self.size, self._last + _LARGEST_FOLIO)
            self._map.madvise(mmap.MADV_DONTNEED, start, end - start)
            self._first, self._last, self._mapped_bytes = self.size, 0, 0

    def require_unchanged(self) -> None:
        """Judge whether the file is what it was when it was opened.

        Raises:
            UsageError: it was written to, cut, or replaced by another one; no verdict on it would hold.
        """
        now = os.fstat(self.descriptor)
        changed = (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns)
        if changed:
            raise UsageError(
                f"The file '{self.path}' changed while it was read: it had {self._opened.st_size} bytes, and "
                f"has {now.st_size}. Check it again when nothing writes to it."
            )
        try:
            there = self.path.stat()
        except (OSError, ValueError):
            return  # Removed or renamed; what was read is what it was.
        if (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino):
            raise UsageError(f"The file '{self.path}' was replaced by another one while it was read.")

    def passed(self, length: int) -> None:
        """Note that `length` more bytes have been looked at; a subclass may report them."""


class PipeSource:
    """A pipe or socket: offsets may only grow, and no more than the last bytes read is kept."""

    seekable = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._start = 0
        self._ended = False

    @property
    def size(self) -> int | None:
        """Return the bytes in the stream once its end has been seen, else None."""
        return self._start + len(self._buffer) if self._ended else None

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of the bytes.

        Raises:
            StreamError: the bytes at `offset` have been dropped already.
        """
        if offset < self._start:
            raise StreamError(Code.PIPE_BACKWARDS, f"Offset {offset} of a pipe is needed again.", offset)
        self._fill(offset + length)
        start = offset - self._start
        return bytes(memoryview(self._buffer)[start : start + length])

    def window(self, offset: int, length: int) -> memoryview:
        """Return the bytes as read() does."""
        return memoryview(self.read(offset, length))

    def _fill(self, end: int) -> None:
        while not self._ended and self._start + len(self._buffer) < end:
            piece = self._stream.read(min(1 << 20, end - self._start - len(self._buffer)))
            if not piece:
                self._ended = True
            self._buffer += piece

    def ends_in_zeros(self, offset: int) -> bool:
        """Read to the end, so that the size is known; return whether all from `offset` on is zero."""
        zeros = True
        while True:
            self._fill(self._start + len(self._buffer) + _RELEASE_STEP if not self._ended else 0)
            zeros = zeros and not any(self._buffer[max(0, offset - self._start) :].strip(b"\0"))
            self.release(self._start + len(self._buffer))
            if self._ended:
                return zeros

    def release(self, offset: int) -> None:
        """Drop the bytes before `offset`."""
        drop = min(max(0, offset - self._start), len(self._buffer))
        del self._buffer[:drop]
        self._start += drop


@contextmanager
def open_standard_input() -> Iterator[FileSource]:
    """Open standard input as a file; what comes from a pipe is copied to a temporary file first.

    Raises:
        UsageError: it is closed, a terminal or empty.
        SetupBroken: the temporary file cannot be written.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("'-' reads standard input, but that is a terminal or closed.")
    stream = sys.stdin.buffer
    try:
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, _RELEASE_STEP)
            copy.flush()
            if not copy.tell():
                raise UsageError("Standard input is empty, so it is not a vmstate file.")
            yield FileSource(copy.fileno(), Path("-"))
    except OSError as error:
        raise SetupBroken(f"Standard input could not be copied to a file: {error.strerror}.") from error


def _mapped(descriptor: int, path: Path) -> FileSource:
    try:
        return FileSource(descriptor, path)
    except OSError as error:
        raise SetupBroken(
            f"The file '{path}' cannot be mapped on its file system: {error.strerror}; copy it to another."
        ) from error


@contextmanager
def open_source(path: Path) -> Iterator[FileSource]:
    """Open a regular file for reading.

    Raises:
        UsageError: the file cannot be opened, is not a regular file, is empty, or changed until the end.
        SetupBroken: its file system cannot map it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"The file '{path}' cannot be opened: {error.strerror}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"'{path}' is not a regular file; only regular files can be opened here.")
        if status.st_size == 0:
            raise UsageError(f"The file '{path}' is empty, so it is not a vmstate file.")
        source = _mapped(descriptor, path)
        try:
            yield source
        except SnapproofError:
            # A file that changed meanwhile is no evidence.
            source.require_unchanged()
            raise
        source.require_unchanged()
    finally:
        os.close(descriptor)
