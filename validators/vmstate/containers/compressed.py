"""Decompresses a vmstate stream, piece by piece and within bounds."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from harness.errors import UsageError
from validators.vmstate.containers.shared_library import DataError, Lz4Frame, MemoryLimit, ZstdFrame

_PIECE = 128 << 10
# What follows one of many small members is copied for each of them.
_INPUT = 64 << 10
_XZ_MEMORY = 128 << 20  # `xz -9` needs 65 MiB.
# A stream of zero pages compresses to a fiftieth, a mapped-ram file that is all holes to a thousandth (gzip)
# or less; but a guest whose RAM is all holes has not run.
_FREE_EXPANSION = 4 << 30
_MOST_EXPANSION = 1000


class Member(Protocol):
    """One member (stream, frame) of compressed data, decompressed as by bz2.BZ2Decompressor."""

    @property
    def eof(self) -> bool:
        """Whether the end of the member was reached."""

    @property
    def needs_input(self) -> bool:
        """Whether more compressed data is needed for more output."""

    @property
    def unused_data(self) -> bytes:
        """Return what follows the end of the member."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return up to `max_length` bytes."""


class _GzipMember:
    """One member of gzip data; zlib's own object has another interface than the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the end of the member was reached."""
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        """Return what follows the end of the member."""
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return up to `max_length` bytes."""
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(out) < max_length and not self._zlib.eof
        return out


class _XzMember:
    """One stream of xz data, decompressed in bounded memory."""

    def __init__(self) -> None:
        self._lzma = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)

    @property
    def eof(self) -> bool:
        """Whether the end of the member was reached."""
        return self._lzma.eof

    @property
    def needs_input(self) -> bool:
        """Whether more compressed data is needed for more output."""
        return self._lzma.needs_input

    @property
    def unused_data(self) -> bytes:
        """Return what follows the end of the member."""
        return self._lzma.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return up to `max_length` bytes."""
        try:
            return self._lzma.decompress(data, max_length)
        except lzma.LZMAError as error:
            # liblzma's LZMA_MEMLIMIT_ERROR; Python has no class of its own for it.
            if "emory" in str(error):
                raise MemoryLimit from error
            raise


@dataclass(frozen=True)
class Compression:
    """A format of compressed data.

    Attributes:
        name: of the format.
        magics: how a member can begin.
        member: makes what decompresses one member.
    """

    name: str
    magics: tuple[bytes, ...]
    member: Callable[[], Member]

    def begins(self, head: bytes) -> bool:
        """Tell whether a member begins so."""
        return head.startswith(self.magics)


GZIP = Compression("gzip", (b"\x1f\x8b\x08",), _GzipMember)
BZIP2 = Compression("bzip2", tuple(b"BZh%d" % level for level in range(1, 10)), bz2.BZ2Decompressor)
XZ = Compression("xz", (b"\xfd7zXZ\0",), _XzMember)
# zstd also has frames that are skipped; pzstd writes one before each frame.
ZSTD = Compression(
    "zstd",
    (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))),
    ZstdFrame,
)
LZ4 = Compression("lz4", (b"\x04\x22\x4d\x18",), Lz4Frame)
COMPRESSIONS = (GZIP, BZIP2, XZ, ZSTD, LZ4)
LZOP_MAGIC = b"\x89LZO\0\r\n\x1a\n"

_LONGEST_MAGIC = 9


class Expansion:
    """Decompresses all members of compressed data.

    Attributes:
        problem: why the data could not be read to its end, "" if it was.
        trailing: whether something else than zeros follows the last member.
    """

    def __init__(self, compression: Compression, read: Callable[[int, int], bytes], start: int) -> None:
        """Prepare; `read` returns up to so many bytes (the second) from an offset (the first) of the file."""
        self._compression = compression
        self._read = read
        self._start = self._position = start
        self._data = b""
        self._made = 0
        self.problem = ""
        self.trailing = False

    def pieces(self) -> Iterator[bytes]:
        """Yield the decompressed bytes in pieces of at most 128 KiB.

        Raises:
            UsageError: they are more than a saved guest can have.
        """
        while self._find_member():
            try:
                yield from self._member()
            except MemoryLimit as error:
                raise UsageError(
                    f"The {self._compression.name} data needs more than 128 MiB of memory to decompress. "
                    "Decompress it to a file, and name that."
                ) from error
            except (DataError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
                self.problem = str(error)
            if self.problem:
                return

    def _fill(self) -> bool:
        """Read more compressed data; False at the end of the file."""
        more = self._read(self._position, _INPUT)
        self._position += len(more)
        self._data += more
        return bool(more)

    def _find_member(self) -> bool:
        """Tell whether another member follows, possibly behind zeros."""
        while True:
            self._data = self._data.lstrip(b"\0") if self._made else self._data
            if len(self._data) >= _LONGEST_MAGIC or not self._fill():
                break
        if not self._data:
            return False
        if not self._compression.begins(self._data):
            self.trailing = True
            return False
        return True

    def _member(self) -> Iterator[bytes]:
        member = self._compression.member()
        while not member.eof:
            data = b""
            if member.needs_input:
                if not self._data and not self._fill():
                    self.problem = "it ends early"
                    return
                data, self._data = self._data, b""
            piece = member.decompress(data, _PIECE)
            self._made += len(piece)
            self._require_bounded()
            if piece:
                yield piece
        self._data = member.unused_data + self._data

    def _require_bounded(self) -> None:
        taken = self._position - self._start
        if self._made > _FREE_EXPANSION + _MOST_EXPANSION * taken:
            raise UsageError(
                f"{taken:,} bytes of {self._compression.name} data expand to more than {self._made:,} bytes, "
                "which is more than those of a saved guest do, and may be meant to fill a disk. If it is a "
                "saved guest, decompress it to a file and name that."
            )
