"""Contract: behind a device's state only what can begin a further element counts as its end."""

from __future__ import annotations

import struct

import pytest

from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.sections import _follows


def _named(name: bytes) -> bytes:
    return bytes([fmt.FULL]) + struct.pack(">I", 3) + bytes([len(name)]) + name


@pytest.mark.parametrize(
    ("raw", "follows"),
    [
        (b"", True),
        (bytes([fmt.EOF]), True),
        (_named(b"dev")[:5], True),
        (_named(b"a b"), True),
        (_named(b"~"), True),
        (_named(b""), False),
        (_named(b"a\x1f"), False),
        (_named(b"a\x7f"), False),
        (_named(b"\xff"), False),
        (bytes([fmt.PART]), True),
        (bytes([fmt.END]), True),
        (bytes([fmt.COMMAND]), True),
        (b"\x09", False),
        (b"\x7e", False),
    ],
)
def test_what_can_follow(raw: bytes, follows: bool) -> None:
    """Names of sections are printable ASCII and not empty."""
    assert _follows(raw) == follows
