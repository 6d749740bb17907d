"""Faults planted in what only a mapped-ram file has: bitmaps and their headers."""

from __future__ import annotations

import numpy as np

from validators.faults.files.catalogue import Catalogue
from validators.faults.files.subject import Damage, DamagePlace, Edit, Subject

MAPPED = Catalogue()


@MAPPED.fault("A bit of a mapped-ram bitmap is cleared: a page reads as zero.", needs_golden=True)
def _bitmap_cleared(subject: Subject) -> Damage | None:
    return _bitmap(subject, present=True)


@MAPPED.fault("A bit of a mapped-ram bitmap is set, and the page has random content.", needs_golden=True)
def _bitmap_set(subject: Subject) -> Damage | None:
    return _bitmap(subject, present=False)


def _bitmap(subject: Subject, present: bool) -> Damage | None:
    number, block = subject.main_block()
    region = subject.index.mapped.get(number)
    source = block.page_source
    pages = np.flatnonzero(source > 0 if present else source < 0)
    if region is None or not len(pages):
        return None
    page = int(pages[subject.pick(len(pages))])
    at = region.bitmap_offset + page // 8
    edits = [Edit(at, 1, bytes([subject.bytes_at(at, at + 1)[0] ^ 1 << page % 8]))]
    if not present:
        content = subject.random.bytes(block.page_size)
        edits.append(Edit(region.pages_offset + page * block.page_size, block.page_size, content))
    return Damage(tuple(edits), subject.page_place(number, page))


@MAPPED.fault("A mapped-ram bitmap is all zero: a whole RAMBlock is lost.")
def _bitmap_empty(subject: Subject) -> Damage | None:
    number, block = subject.main_block()
    region = subject.index.mapped.get(number)
    if region is None:
        return None
    edit = Edit(region.bitmap_offset, region.bitmap_bytes, bytes(region.bitmap_bytes))
    start, end = region.header_offset, region.bitmap_offset + region.bitmap_bytes
    return Damage((edit,), DamagePlace(f"bitmap of {block.idstr}", start, end))


def _region_header(subject: Subject, at: int, change: int, size: int = 8) -> Damage | None:
    number, block = subject.main_block()
    region = subject.index.mapped.get(number)
    if region is None:
        return None
    start = region.header_offset
    value = int.from_bytes(subject.bytes_at(start + at, start + at + size), "big") + change
    place = DamagePlace(
        "mapped-ram header", start, region.pages_offset + block.used_length + block.page_size, block.idstr
    )
    return Damage((Edit(start + at, size, value.to_bytes(size, "big")),), place)


@MAPPED.fault("A mapped-ram header has an unknown version.")
def _mapped_version(subject: Subject) -> Damage | None:
    return _region_header(subject, 0, 1, 4)


@MAPPED.fault("A mapped-ram header gives another page size.")
def _mapped_page_size(subject: Subject) -> Damage | None:
    return _region_header(subject, 4, subject.index.page_size)


@MAPPED.fault("A mapped-ram header gives another place for the bitmap.")
def _mapped_bitmap_moved(subject: Subject) -> Damage | None:
    return _region_header(subject, 12, subject.index.page_size)


@MAPPED.fault("A mapped-ram header places the pages one page further.")
def _mapped_pages_moved(subject: Subject) -> Damage | None:
    return _region_header(subject, 20, subject.index.page_size)


@MAPPED.fault("A mapped-ram header places the pages far behind the end of the file.")
def _mapped_pages_outside(subject: Subject) -> Damage | None:
    return _region_header(subject, 20, 1 << 50)
