"""Makes values of a results file safe for report.html: of the right type, bounded, printable."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

# ECMA-48 control sequences, which a guest's console prints for colours.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)?|[@-Z\\-_])")
# Characters that HTML forbids, and those that reverse the direction of all text after them.
_FORBIDDEN = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u2029\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)

LINE = 600
"""Limit of a sentence in characters."""

BLOCK = 6000
"""Limit of a text of several lines in characters."""


def clean(value: object, limit: int = LINE) -> str:
    """Return a value as text of at most `limit` characters, "" for None; a longer text ends with a mark.

    It is not escaped for HTML: the templates escape everything.
    """
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    # Cut first: the expressions would take seconds for a text of a megabyte.
    cut = text[: 2 * limit]
    cut = _FORBIDDEN.sub("\ufffd", _ESCAPES.sub("", cut.replace("\r\n", "\n").replace("\r", "\n")))
    return (
        cut if len(cut) <= limit and len(text) <= 2 * limit else f"{cut[:limit]} … ({len(text):,} characters)"
    )


def tail(value: object, limit: int = BLOCK) -> str:
    """Return the end of a text of several lines."""
    text = value if isinstance(value, str) else ""
    return clean(text[-limit:], limit)


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object, limit: int = 100_000) -> list[Any]:
    """Return the first `limit` elements of a list, none if the value is not a list."""
    return list(value[:limit]) if isinstance(value, list | tuple) else []


def number(value: object, default: float = 0.0) -> float:
    """Return the value if it is a finite number, else the default."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value) if math.isfinite(value) else default
        except OverflowError:
            return default
    return default


def inside(folder: Path, name: object) -> Path | None:
    """Return the file or folder that a results file names; None if it does not exist below the folder."""
    if not isinstance(name, str) or not name or "\0" in name or len(name) > 1000:
        return None
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        return None
    path = folder / name
    try:
        good = path.resolve().is_relative_to(folder.resolve()) and path.exists()
    except (OSError, ValueError):
        return None
    return path if good else None


HERE = "./"
"""Base of links in a page that lies in the results folder."""


def link(folder: Path, path: Path, base: str) -> str:
    """Return the URL of a file below the folder, which begins with `base` whatever the file's name is."""
    return base + quote(path.relative_to(folder).as_posix(), safe="/", errors="surrogateescape")


def duration(seconds: float) -> str:
    """Return a time as text: "0.8 s", "59 s", "12 min 5 s", "1 h 20 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
