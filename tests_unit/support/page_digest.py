"""NH of a page in plain integers, for tests of digests."""

from __future__ import annotations

import struct

from validators.vmstate.digests import digest_keys

_MASK = (1 << 32) - 1


def nh(page: bytes) -> list[int]:
    """The two words of a page's digest: RFC 4418, section 5.2.2, with 64-bit words of the key."""
    words = struct.unpack(f"<{len(page) // 8}Q", page)
    keys = [int(key) for key in digest_keys()[: len(words) + 1]]
    return [
        sum(
            (((word & _MASK) + (key & _MASK)) & _MASK) * (((word >> 32) + (key >> 32)) & _MASK)
            for word, key in zip(words, keys[shift:], strict=False)
        )
        % (1 << 64)
        for shift in (0, 1)
    ]
