"""Makes text from guests, QEMU and results files fit for a report: bounded, without control characters."""

from __future__ import annotations

import os
from pathlib import Path

_TAIL_LINES = 15
_TAIL_BYTES = 4 << 10


def one_line(text: str, most: int | None = None) -> str:
    """Return the text as one line of printable characters, with each run of white space as one blank.

    Args:
        text: any text, also with undecodable bytes.
        most: longest result in characters, None for no limit.
    """
    line = printable(" ".join(text.split()))
    return line if most is None or len(line) <= most else f"{line[: most - 3]}..."


def printable(text: str) -> str:
    """Return the text with "?" for control characters, line breaks included, and for lone surrogates."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def log_tail(path: Path) -> list[str]:
    """Return the last lines of a log, at most 15 and 4 KiB; none if it cannot be read."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL_BYTES))
            lines = stream.read(_TAIL_BYTES).decode(errors="replace").split("\n")
    except (OSError, ValueError):
        return []
    if size > _TAIL_BYTES:
        # Most likely this is the second half of a line.

        del lines[0]
    return [printable(line.rstrip()) for line in lines if line.strip()][-_TAIL_LINES:]
