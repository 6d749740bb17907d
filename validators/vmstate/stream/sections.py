"""Finds the end of a device section, whose length the stream does not have.

The vmdesc has the length, and a footer at that place confirms it. Without a vmdesc (a pipe, a cut file) or
if the two disagree, the section ends where its own footer is followed by bytes that can begin the next
element.

Device state can contain bytes that look like a footer with the end marker behind it. Such a place is taken
only if no better one is found: a QEMU that writes footers writes a vmdesc behind the end marker, unless told
not to.

Machine types pc-i440fx-2.0 to 2.2, pseries-2.1 and pseries-2.2 have neither footers nor a vmdesc (QEMU 7.2
hw/i386/pc_piix.c, hw/ppc/spapr.c: `suppress-vmdesc=on`). There a section ends where the header of the next
one begins, and the last section in front of the end marker.
"""

from __future__ import annotations

import re
from collections.abc import Container

from harness.codes import Code
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Section
from validators.vmstate.stream.source import Source

_FIRST_WINDOW = 1 << 13
_LOOK_BEHIND = 266  # a footer (5), a type byte, a number (4), a length byte, and the longest name (255)
_MAX_CANDIDATES = 100_000
_VMDESC_BEGINS = re.compile(rb"\x00\x06[\x00-\xff]{4}\{")
# A FULL section's header up to the length of its name: its number is below MAX_DEVICES.
_HEADER_BEGINS = re.compile(rb"\x04\x00\x00[\x00-\xff]{2}(?=[\x01-\xff])")
# A section's name: that of QEMU's VMStateDescription, three letters or more ("cpu", "dma", "fdc"), behind the
# path of a device on a bus that has paths ("0000:00:01.1/ide"). Its version is a small number.
_NAME = re.compile(rb"[0-9A-Za-z/_][\x20-\x7e]{2,}")


# QEMU 7.2 hw/ppc/spapr.c htab_save_setup(), htab_save_iterate(), htab_save_chunk(): START has one number of 4
# bytes, PART and END another one, then chunks of valid entries, each with its place (4) and the numbers of
# entries that are valid (2) and invalid (2). A chunk of zeros is the last.
_HASH_TABLE = "spapr/htab"
_NO_TABLE = b"\xff" * 4
_CHUNK_BYTES, _ENTRY_BYTES = 8, 16
# A chunk takes a read of its own, as much time as searching so many bytes.
_READ_COST = 1 << 10


class SectionEnds:
    """Finds where the sections of one stream end.

    One search may read much of the file. The bytes that all searches together read are bounded.
    """

    def __init__(self, source: Source, embedded: bool, taken: Container[int] = ()) -> None:
        """Search in one stream.

        Args:
            source: the file or pipe.
            embedded: whether the stream begins behind the file's first byte.
            taken: the numbers of the sections read so far, which no other section has.
        """
        self._source = source
        self._embedded = embedded
        self._taken = taken
        self._left = fmt.MAX_SEARCHED_BYTES

    def find(self, section: Section, described: int | None, footers: bool | None) -> int:
        """Return the file offset behind the content of a section that is not RAM.

        Args:
            section: the section, its header read.
            described: its length in bytes by the vmdesc, None if unknown.
            footers: whether this stream has footers, None while unknown.

        Raises:
            StreamError: the end cannot be found.
        """
        footer = bytes([fmt.FOOTER]) + section.section_id.to_bytes(4, "big")
        start = section.data_offset
        if described is not None:
            raw = self._source.read(start + described, _LOOK_BEHIND)
            if footers is False or raw.startswith(footer):
                return start + described
        if footers is False:
            found = self._table_end(section) if section.idstr == _HASH_TABLE else self._next_header(start)
        else:
            found = self._search(start, footer)
        if found is not None:
            return found
        if described is not None and _follows(self._source.read(start + described + 5, _LOOK_BEHIND)):
            return start + described
        raise StreamError(
            Code.TRUNCATED_SECTION if self._is_cut(start) else Code.FOOTER_NOT_FOUND,
            f"The end of section '{section.idstr}' (number {section.section_id}) cannot be found: "
            f"its footer is not there.",
            section.offset,
        )

    def _is_cut(self, start: int) -> bool:
        """Whether the file was cut: no end marker with a vmdesc behind it follows `start`."""
        return _VMDESC_BEGINS.search(self._source.read(start, fmt.MAX_DEVICE_BYTES)) is None

    def _search(self, start: int, footer: bytes) -> int | None:
        length = _FIRST_WINDOW
        fallback = None  # the first footer that no certain beginning of an element follows
        while True:
            data = self._source.read(start, length)
            self._left -= len(data)
            at = data.find(footer)
            for _ in range(_MAX_CANDIDATES):
                if at < 0:
                    break
                if at + _LOOK_BEHIND > len(data) and len(data) == length:
                    break  # what follows may lie in the next window
                if _certainly_follows(data[at + len(footer) : at + _LOOK_BEHIND]):
                    return start + at
                fallback = at if fallback is None else fallback
                at = data.find(footer, at + 1)
            if len(data) < length or length >= fmt.MAX_DEVICE_BYTES or self._left <= 0:
                return None if fallback is None else self._doubtful(start, fallback, len(footer))
            length = min(length * 8, fmt.MAX_DEVICE_BYTES)

    def _table_end(self, section: Section) -> int | None:
        """Return the end of a part of the hash page table of pseries, None if it is cut."""
        at = section.data_offset
        head = self._source.read(at, 4)
        at += 4
        if section.kind == fmt.START or head == _NO_TABLE:
            return at if len(head) == 4 else None
        while len(chunk := self._source.read(at, _CHUNK_BYTES)) == _CHUNK_BYTES and self._left > 0:
            at += _CHUNK_BYTES
            self._left -= _READ_COST
            if chunk == bytes(_CHUNK_BYTES):
                return at
            at += int.from_bytes(chunk[4:6], "big") * _ENTRY_BYTES
        return None

    def _next_header(self, start: int) -> int | None:
        """Return where the next FULL section begins, or the end marker that is the file's last byte."""
        length = _FIRST_WINDOW
        while True:
            data = self._source.read(start, length)
            self._left -= len(data)
            for found in _HEADER_BEGINS.finditer(data):
                number = int.from_bytes(found[0][1:], "big")
                if number not in self._taken and _is_header(data, found.end()):
                    return start + found.start()
            if len(data) < length:
                ends = data[-1:] == bytes([fmt.EOF]) and not self._embedded
                return start + len(data) - 1 if ends else None
            if length >= fmt.MAX_DEVICE_BYTES or self._left <= 0:
                return None
            length = min(length * 8, fmt.MAX_DEVICE_BYTES)

    def _doubtful(self, start: int, at: int, length: int) -> int | None:
        """Return the place of a footer that nothing certain follows, None if the file seems cut."""
        ends = self._source.read(start + at + length, 1) == bytes([fmt.EOF])
        return None if ends and not self._embedded and self._is_cut(start) else start + at


def _is_header(data: bytes, at: int) -> bool:
    """Whether a section's name with its length is there, then an instance and a version."""
    behind = at + 1 + data[at]
    name, version = data[at + 1 : behind], data[behind + 4 : behind + 8]
    return len(version) == 4 and version[:3] == bytes(3) and _NAME.fullmatch(name) is not None


def _certainly_follows(raw: bytes) -> bool:
    """Whether these bytes begin a top-level element and not by chance; b"" is the end of the file."""
    if raw[:1] != bytes([fmt.EOF]):
        return _follows(raw)
    return len(raw) == 1 or raw[1] == fmt.VMDESC


def _follows(raw: bytes) -> bool:
    """Whether these bytes can begin a top-level element."""
    kind = raw[0] if raw else fmt.EOF
    if kind == fmt.EOF:
        # The stream may end here, its vmdesc may follow, or it may lie inside a larger file.
        return True
    if kind in (fmt.START, fmt.FULL):
        if len(raw) < 6:
            return True
        name = raw[6 : 6 + raw[5]]
        return raw[5] > 0 and all(32 <= byte < 127 for byte in name)
    return kind in (fmt.PART, fmt.END, fmt.COMMAND)
