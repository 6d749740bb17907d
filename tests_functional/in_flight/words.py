"""Packs the numbers of items into a stream of bytes, as words of 32 bits."""

from __future__ import annotations

import struct
from collections.abc import Sequence

WORD_BYTES = 4
"""Bytes of an item."""


def packed(numbers: Sequence[int]) -> bytes:
    """Return the bytes of items."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def unpacked(data: bytes) -> list[int]:
    """Return the numbers in a piece of a stream; of an item that is not complete, what its bytes give."""
    whole = data.ljust(-(-len(data) // WORD_BYTES) * WORD_BYTES, b"\xff")
    return list(struct.unpack(f"<{len(whole) // WORD_BYTES}I", whole))
