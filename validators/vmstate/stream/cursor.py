"""Reads big-endian values from a position in a source; a read behind the end is a StreamError."""

from __future__ import annotations

from harness.codes import Code
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.source import Source

_SIGHT = 1 << 12


class Cursor:
    """Reads small values one after another.

    Attributes:
        position: absolute file offset of the next byte.
    """

    def __init__(self, source: Source, position: int) -> None:
        self._source = source
        self._held = b""
        self._held_at = position
        self.position = position

    def peek(self, count: int) -> bytes:
        """Return up to `count` bytes from here without moving; fewer only at the end of the file."""
        start = self.position - self._held_at
        if start < 0 or start + count > len(self._held):
            self._held = self._source.read(self.position, max(count, _SIGHT))
            self._held_at = self.position
            start = 0
        return self._held[start : start + count]

    def take(self, count: int, what: str) -> bytes:
        """Return exactly `count` bytes and move behind them.

        Raises:
            StreamError: the file ends before; the sentence names `what`.
        """
        data = self.peek(count)
        if len(data) < count:
            raise StreamError(
                Code.TRUNCATED_ELEMENT,
                f"The file ends at offset {self.position + len(data)}, in the middle of {what}.",
                self.position,
            )
        self.position += count
        return data

    def unsigned(self, size: int, what: str) -> int:
        """Read a big-endian unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size, what), "big")

    def name(self, what: str) -> str:
        """Read a string with a length byte before it, and make it safe to print."""
        return readable(self.take(self.unsigned(1, f"the length of {what}"), what))


def readable(raw: bytes) -> str:
    """Make untrusted bytes safe to print: printable ASCII, the rest in hexadecimal."""
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in raw)
