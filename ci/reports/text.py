"""Text of guests, QEMU and results files made fit for a report: bounded, without control characters."""

from __future__ import annotations

import os
from pathlib import Path

_TAIL_LINES = 15
_TAIL_BYTES = 4096


def one_line(text: str, most: int | None = None) -> str:
    """The text as one line of printable characters, blanks run together.

    Args:
        text: anything, undecodable bytes included.
        most: longest result in characters, None for no limit.
    """
    line = printable(" ".join(text.split()))
    return line if most is None or len(line) <= most else f"{line[: most - 3]}..."


def printable(text: str) -> str:
    """The text with "?" for control characters, among them line breaks, and for halves of characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def log_tail(path: Path) -> list[str]:
    """The last lines of a log, at most 15 and 4 KiB; none where it cannot be read or has no name."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            lines = stream.read(_TAIL_BYTES).decode(errors="replace").split("\n")
    except (OSError, ValueError):
        return []
    if size > _TAIL_BYTES:
        # Most likely the second half of a line.
        del lines[0]
    return [printable(line.rstrip()) for line in lines if line.strip()][-_TAIL_LINES:]
