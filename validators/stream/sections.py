"""Where a device section ends: its length is nowhere in the stream itself.

The vmdesc gives it, and the footer proves it. Without a vmdesc (a pipe, a cut file) or where the two
disagree, the section ends where its own footer is followed by what can begin the next element.
"""

from __future__ import annotations

from validators.stream import format as fmt
from validators.stream.format import StreamError
from validators.stream.index import Section
from validators.stream.source import Source

_FIRST_WINDOW = 1 << 13
_LOOK_BEHIND = 5 + 1 + 4 + 1 + 255
_MAX_CANDIDATES = 100_000


class SearchBudget:
    """How many bytes all searches in a stream may still look at: each may look far, but not every one."""

    def __init__(self) -> None:
        self.left = fmt.MAX_SEARCHED_BYTES


def find_section_end(
    source: Source, section: Section, described: int | None, footers: bool | None, budget: SearchBudget
) -> int:
    """File offset just behind the content of a section that is not RAM.

    Args:
        source: the file.
        section: the section, its header read.
        described: bytes that vmdesc gives it, None where unknown.
        footers: whether this stream has footers, None while unknown.
        budget: of the stream; what this search looks at is taken from it.

    Raises:
        StreamError: the end cannot be found.
    """
    footer = bytes([fmt.FOOTER]) + section.section_id.to_bytes(4, "big")
    start = section.data_offset
    if described is not None:
        raw = source.read(start + described, _LOOK_BEHIND)
        if footers is False or raw.startswith(footer):
            return start + described
    found = None if footers is False else _search(source, start, footer, budget)
    if found is not None:
        return found
    if described is not None and _follows(source.read(start + described + 5, _LOOK_BEHIND)):
        return start + described
    raise StreamError(
        "truncated" if _at_end(source, start) else "footer",
        f"The end of section '{section.idstr}' (number {section.section_id}) cannot be found: "
        f"its footer is not there.",
        section.offset,
    )


def _at_end(source: Source, start: int) -> bool:
    """Whether the file has no further end marker, so that it must have been cut."""
    return b"\x00\x06" not in source.read(start, fmt.MAX_DEVICE_BYTES)


def _search(source: Source, start: int, footer: bytes, budget: SearchBudget) -> int | None:
    length = _FIRST_WINDOW
    fallback = None  # a footer that nothing plausible follows: what follows is damaged, then
    while True:
        data = source.read(start, length)
        budget.left -= len(data)
        at = data.find(footer)
        for _ in range(_MAX_CANDIDATES):
            if at < 0:
                break
            if at + _LOOK_BEHIND > len(data) and len(data) == length:
                break  # what follows may lie in the next window
            if _is_end(data[at : at + _LOOK_BEHIND], footer):
                return start + at
            fallback = start + at if fallback is None else fallback
            at = data.find(footer, at + 1)
        if len(data) < length or length >= fmt.MAX_DEVICE_BYTES or budget.left <= 0:
            return fallback
        length = min(length * 8, fmt.MAX_DEVICE_BYTES)


def _is_end(raw: bytes, footer: bytes) -> bool:
    return raw[: len(footer)] == footer and (len(raw) == len(footer) or _follows(raw[len(footer) :]))


def _follows(raw: bytes) -> bool:
    """Whether these bytes can begin a top-level element."""
    kind = raw[0] if raw else 0
    if kind == fmt.EOF:
        # A stream may end here, have its vmdesc here, or have been written into a larger file.
        return True
    if kind in (fmt.START, fmt.FULL):
        if len(raw) < 6:
            return True
        name = raw[6 : 6 + raw[5]]
        return raw[5] > 0 and all(32 <= byte < 127 for byte in name)
    return kind in (fmt.PART, fmt.END, fmt.COMMAND)
