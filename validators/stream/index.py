"""The index of a vmstate file: what is where. Every oracle works on this, not on the file's syntax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.codes import Code

# page_source values. No page's data can lie at offset 0 (the header is there), so a missing page is 0
# and a fresh array needs no filling: a header that claims terabytes costs no memory.
MISSING = 0
# Zero pages are negative: minus the offset of the record, or -1 where a bitmap says so.
ZERO_BY_BITMAP = -1


@dataclass(frozen=True)
class Anomaly:
    """A broken structural rule that did not stop the reader.

    Attributes:
        code: which rule is broken, and how.
        sentence: one full sentence.
        offset: byte offset in the file.
        block: RAMBlock it concerns, "" where none.
        page_offset: byte offset inside that RAMBlock, None where none.
    """

    code: Code
    sentence: str
    offset: int
    block: str = ""
    page_offset: int | None = None

    @property
    def check(self) -> str:
        """The name of the rule's check."""
        return self.code.subject


@dataclass(frozen=True)
class Block:
    """One RAMBlock of the stream.

    Attributes:
        idstr: QEMU's name of it; untrusted text made safe to print.
        used_length: bytes.
        page_size: bytes of a target page.
        page_source: int64[pages]; file offset of the data of each page, the last record winning;
            negative for a zero page, MISSING where the stream has none.
        list_offset: file offset of its entry in the block list.
        gpa: guest-physical address, only where the stream says so (x-ignore-shared), else None.
        shared: RAM that x-ignore-shared left out of the file.
    """

    idstr: str
    used_length: int
    page_size: int
    page_source: npt.NDArray[np.int64] = field(repr=False)
    list_offset: int = 0
    gpa: int | None = None
    shared: bool = False

    @property
    def pages(self) -> int:
        """Number of target pages."""
        return len(self.page_source)


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the stream.

    Attributes:
        kind: START, PART, END or FULL, as in format.py.
        section_id: QEMU's number of it.
        idstr: name, for PART and END that of their START.
        instance: instance id.
        version: version id.
        offset: file offset of its type byte.
        data_offset: file offset of its content.
        data_end: file offset just behind its content (where the footer begins).
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


@dataclass(frozen=True)
class Duplicates:
    """Records of pages that the stream had sent before, in file order; equal-length arrays.

    Attributes:
        block: int64, index into SnapshotIndex.blocks.
        page: int64, page number in the block.
        earlier: int64, page_source before.
        later: int64, page_source after.
        same_section: bool, both records lie in one section.
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
        machine: machine type name, "" where the stream has no such section.
        capabilities: migration capabilities that QEMU writes down (only some are).
        page_bits: log2 of the target page size, None where the stream does not say.
        uuid: the guest's UUID, None where the stream does not say.
        subsections: names of all subsections met.
    """

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
        content: the parsed object, empty where it did not parse.
        problem: why it did not parse, "" where it did.
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
        end: file offset just behind the last byte that was understood.
        file_size: bytes in the file, None for a pipe whose end was not seen.
        page_size: bytes of a target page.
        configuration: the configuration section.
        blocks: RAMBlocks in stream order.
        sections: all sections in stream order.
        commands: names of the commands met.
        duplicates: page records for pages already sent.
        mapped: place of each block of a mapped-ram file, by position in `blocks`; empty otherwise.
        end_marker: file offset of the EOF byte, None where there is none.
        vmdesc: the device description, None where there is none.
        anomalies: broken rules, at most ANOMALY_LIMIT per rule.
        anomaly_counts: number of all of them by rule.
        damage: what ended the reading early, None where the whole stream was read.
        footers: whether sections have footers.
        records: number of page records by kind ("page", "zero").
    """

    start: int
    end: int
    file_size: int | None
    page_size: int
    configuration: Configuration
    blocks: tuple[Block, ...]
    sections: tuple[Section, ...]
    commands: tuple[str, ...]
    duplicates: Duplicates
    mapped: Mapping[int, MappedRegion]
    end_marker: int | None
    vmdesc: Vmdesc | None
    anomalies: tuple[Anomaly, ...]
    anomaly_counts: Mapping[str, int]
    damage: Anomaly | None
    footers: bool
    records: Mapping[str, int]

    @property
    def devices(self) -> tuple[Section, ...]:
        """The device sections (FULL) in stream order."""
        return tuple(section for section in self.sections if section.kind == 4)

    @property
    def layout(self) -> str:
        """Either "mapped-ram", or "stream" where pages follow one another as records."""
        return "mapped-ram" if self.mapped else "stream"

    @property
    def flow(self) -> str:
        """Either "background" (no RAM END section, as only background snapshots have it) or "precopy".

        QEMU 6.0 to 11.0, migration/migration.c bg_migration_completion(): only the buffered device
        state follows the last RAM PART section.
        """
        ends = any(section.is_ram and section.kind == 3 for section in self.sections)
        return "precopy" if ends else "background"
