"""The index of a vmstate file: what lies where. Oracles work on the index, not on the bytes of the stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.codes import Code
from validators.vmstate.stream.format import COMMAND_NAMES, END, FULL

MISSING = 0
"""Value in Block.page_source of a page that is not in the stream.

Offset 0 is the header's, so no page's data can be there. An array of zeros takes no memory until it is
written, so a header that claims terabytes costs nothing.
"""

ZERO_BY_BITMAP = -1
"""Value in Block.page_source of a zero page by a bitmap; other zero pages have minus their offset."""


@dataclass(frozen=True)
class Anomaly:
    """A broken structural rule that did not stop the reader.

    Attributes:
        code: which rule is broken, and how.
        sentence: one full sentence.
        offset: byte offset in the file.
        block: RAMBlock that it is about, "" if none.
        page_offset: byte offset inside that RAMBlock, None if it is about no page.
    """

    code: Code
    sentence: str
    offset: int
    block: str = ""
    page_offset: int | None = None

    @property
    def check(self) -> str:
        """Return the name of the rule's check."""
        return self.code.subject


@dataclass(frozen=True)
class Block:
    """One RAMBlock of the stream.

    Attributes:
        idstr: its name in QEMU; untrusted text made safe to print.
        used_length: bytes.
        page_size: bytes of a target page.
        page_source: int64[pages]; file offset of the data of each page, by its last record; negative for a
            zero page, MISSING for a page that the stream does not have.
        list_offset: file offset of its entry in the block list.
        gpa: guest-physical address, None if the file does not say (a stream only with x-ignore-shared, a RAM
            image if it is an ELF core).
    """

    idstr: str
    used_length: int
    page_size: int
    page_source: npt.NDArray[np.int64] = field(repr=False)
    list_offset: int = 0
    gpa: int | None = None

    @property
    def pages(self) -> int:
        """Return the number of target pages."""
        return len(self.page_source)


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the stream.

    Attributes:
        kind: START, PART, END or FULL, as in format.py.
        section_id: its number in QEMU.
        idstr: name; PART and END have that of their START.
        instance: instance id.
        version: version id.
        offset: file offset of its type byte.
        data_offset: file offset of its content.
        data_end: file offset behind its content, where the footer begins.
    """

    kind: int
    section_id: int
    idstr: str
    instance: int
    version: int
    offset: int
    data_offset: int
    data_end: int

    @property
    def is_ram(self) -> bool:
        """Whether it carries guest RAM."""
        return self.idstr == "ram"


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the stream.

    Attributes:
        number: its number in QEMU.
        length: bytes of its content.
        offset: file offset of its type byte.
    """

    number: int
    length: int
    offset: int

    @property
    def name(self) -> str:
        """Return its name in QEMU."""
        return COMMAND_NAMES[self.number]


@dataclass(frozen=True)
class Duplicates:
    """Records of pages that had a record before, in file order; arrays of equal length.

    Attributes:
        block: int64, index into SnapshotIndex.blocks.
        page: int64, page number in the block.
        earlier: int64, page_source before.
        later: int64, page_source after.
        same_section: bool, whether both records are in one section.
    """

    block: npt.NDArray[np.int64]
    page: npt.NDArray[np.int64]
    earlier: npt.NDArray[np.int64]
    later: npt.NDArray[np.int64]
    same_section: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MappedRegion:
    """Place of one RAMBlock in a mapped-ram file; offsets and lengths in bytes."""

    bitmap_offset: int
    bitmap_bytes: int
    pages_offset: int
    header_offset: int


@dataclass(frozen=True)
class Configuration:
    """The configuration section.

    Attributes:
        present: whether the stream has such a section.
        machine: machine type name, "" if the stream has no such section.
        capabilities: migration capabilities that QEMU writes into the stream, which are not all.
        page_bits: log2 of the target page size, None if the stream does not say.
        uuid: the guest's UUID, None if the stream does not say.
        subsections: names of all subsections.
    """

    present: bool = False
    machine: str = ""
    capabilities: tuple[str, ...] = ()
    page_bits: int | None = None
    uuid: bytes | None = None
    subsections: tuple[str, ...] = ()


@dataclass(frozen=True)
class Vmdesc:
    """The JSON description of the device state.

    Attributes:
        offset: file offset of its type byte.
        length: bytes of the JSON text.
        content: the parsed object, empty if it did not parse.
        problem: why it did not parse, "" if it did.
    """

    offset: int
    length: int
    content: Mapping[str, Any] = field(repr=False)
    problem: str = ""


@dataclass(frozen=True)
class SnapshotIndex:
    """Everything the reader found in one vmstate stream.

    Attributes:
        start: file offset of the stream's first byte.
        end: file offset behind the last byte that was understood.
        file_size: bytes in the file, None for a pipe whose end was not seen.
        page_size: bytes of a target page.
        configuration: the configuration section.
        blocks: RAMBlocks in stream order.
        sections: all sections in stream order.
        commands: all commands in stream order.
        duplicates: records of pages that had a record before.
        mapped: place of each block of a mapped-ram file, by position in `blocks`; empty otherwise.
        end_marker: file offset of the EOF byte, None if there is none.
        vmdesc: the description of the device state, None if there is none.
        anomalies: broken rules, at most ANOMALY_LIMIT per rule.
        anomaly_counts: number of all broken rules, by rule.
        damage: what ended the reading early, None if the whole stream was read.
        footers: whether sections have footers.
        records: number of page records by kind ("page", "zero").
        ends_file: whether nothing but padding may follow the stream in its file.
        padding: bytes of zeros to the end of the file, if that is padded; else 0.
        is_image: whether it is of a RAM image and not of a stream: a page can then begin at offset 0, and
            none is missing.
    """

    start: int
    end: int
    file_size: int | None
    page_size: int
    configuration: Configuration
    blocks: tuple[Block, ...]
    sections: tuple[Section, ...]
    commands: tuple[Command, ...]
    duplicates: Duplicates
    mapped: Mapping[int, MappedRegion]
    end_marker: int | None
    vmdesc: Vmdesc | None
    anomalies: tuple[Anomaly, ...]
    anomaly_counts: Mapping[str, int]
    damage: Anomaly | None
    footers: bool
    records: Mapping[str, int]
    ends_file: bool = True
    padding: int = 0
    is_image: bool = False

    @property
    def devices(self) -> tuple[Section, ...]:
        """Return the device sections (FULL) in stream order."""
        return tuple(section for section in self.sections if section.kind == FULL)

    @property
    def iterables(self) -> tuple[Section, ...]:
        """Return the sections of state other than RAM that is saved in parts (START, PART, END)."""
        return tuple(section for section in self.sections if section.kind != FULL and not section.is_ram)

    def left_out(self, block: Block) -> bool:
        """Tell whether x-ignore-shared left a RAMBlock out of the file: then it has no page."""
        return "x-ignore-shared" in self.configuration.capabilities and not block.page_source.any()

    @property
    def layout(self) -> str:
        """Return "mapped-ram", or "stream" if pages follow one another as records."""
        return "mapped-ram" if self.mapped else "stream"

    @property
    def flow(self) -> str:
        """Return how it was saved: "precopy", "background", or "unknown" in a file that is cut before that.

        Only a background snapshot has no RAM END section: QEMU 6.0 to 11.0, migration/migration.c
        bg_migration_completion(), writes only the buffered device state after the last RAM PART section.
        """
        if any(section.is_ram and section.kind == END for section in self.sections):
            return "precopy"
        return "background" if self.devices or self.end_marker is not None else "unknown"
