"""Where the bytes come from: a memory-mapped file, or a pipe that can only be read forwards."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from harness.errors import UsageError
from validators.stream.format import StreamError

Bytes = npt.NDArray[np.uint8]
_RELEASE_STEP = 16 << 20


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
        """Bytes in the file, None where that is unknown."""

    def window(self, offset: int, length: int) -> Bytes:
        """Up to `length` bytes from `offset`, fewer only at the end; valid until the next call."""

    def release(self, offset: int) -> None:
        """Say that bytes before `offset` are not needed for now, so that memory stays bounded."""


class FileSource:
    """A regular file, mapped read-only; resident pages are given back as reading goes on."""

    seekable = True

    def __init__(self, descriptor: int, path: Path) -> None:
        self.path = path
        self.size: int = os.fstat(descriptor).st_size
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, self.size, prot=mmap.PROT_READ)
        self._map.madvise(mmap.MADV_SEQUENTIAL)
        self._bytes: Bytes = np.frombuffer(self._map, np.uint8)
        self._released = 0

    def window(self, offset: int, length: int) -> Bytes:
        """A view of the mapping; raises StreamError where the file shrank meanwhile."""
        # Touching a mapped page behind the end of a file kills the process with SIGBUS.
        if os.fstat(self.descriptor).st_size < self.size:
            raise StreamError("truncated", f"The file {self.path} shrank while it was being read.", offset)
        return self._bytes[offset : offset + length]

    def release(self, offset: int) -> None:
        """Drop mapped pages before `offset` from this process (they stay in the page cache)."""
        if offset < self._released:
            self._released = 0
        end = offset // _RELEASE_STEP * _RELEASE_STEP
        if end > self._released:
            self._map.madvise(mmap.MADV_DONTNEED, self._released, end - self._released)
            self._released = end

    def release_all(self) -> None:
        """Drop all mapped pages from this process, wherever they lie."""
        self._map.madvise(mmap.MADV_DONTNEED)
        self._released = 0

    def next_data(self, offset: int) -> int:
        """File offset of the next byte that is not in a hole; the file's size where there is none."""
        try:
            return os.lseek(self.descriptor, offset, os.SEEK_DATA)
        except OSError:
            # ENXIO: only a hole is left. File systems without holes say that all is data.
            return self.size

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset` by read(2), which is faster than faulting for whole pages.

        Returns:
            The bytes read, fewer than asked only at the end of the file.
        """
        done = 0
        while done < len(buffer):
            got = os.preadv(self.descriptor, [buffer[done:]], offset + done)
            if got == 0:
                break
            done += got
        return done


class PipeSource:
    """A pipe or socket: offsets may only grow, and at most one window is kept."""

    seekable = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._start = 0
        self._ended = False

    @property
    def size(self) -> int | None:
        """Bytes in the stream once its end has been seen, else None."""
        return self._start + len(self._buffer) if self._ended else None

    def window(self, offset: int, length: int) -> Bytes:
        """A copy of the bytes; raises StreamError for an offset that has passed by already."""
        if offset < self._start:
            raise StreamError("pipe", f"Offset {offset} of a pipe was needed again; use a file.", offset)
        self._fill(offset + length)
        start = offset - self._start
        return np.frombuffer(bytes(self._buffer[start : start + length]), np.uint8)

    def _fill(self, end: int) -> None:
        while not self._ended and self._start + len(self._buffer) < end:
            piece = self._stream.read(min(1 << 20, end - self._start - len(self._buffer)))
            if not piece:
                self._ended = True
            self._buffer += piece

    def release(self, offset: int) -> None:
        """Forget the bytes before `offset`."""
        drop = min(max(0, offset - self._start), len(self._buffer))
        del self._buffer[:drop]
        self._start += drop


@contextmanager
def open_source(path: Path) -> Iterator[FileSource]:
    """Open a regular file for reading.

    Raises:
        UsageError: the file cannot be opened, is not a regular file, or is empty.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"The file {path} cannot be opened: {error.strerror}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is not a regular file, which this needs.")
        if status.st_size == 0:
            raise UsageError(f"The file {path} is empty, so it is no vmstate file.")
        yield FileSource(descriptor, path)
    finally:
        os.close(descriptor)
