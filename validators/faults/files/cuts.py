"""Faults that cut the file, at every kind of boundary."""

from __future__ import annotations

import numpy as np

from validators.faults.files.catalogue import Catalogue
from validators.faults.files.subject import Damage, DamagePlace, Edit, Subject

CUTS = Catalogue()


def _cut(subject: Subject, at: int, start: int) -> Damage:
    """Cut the file at `at`, inside the element that begins at `start`."""
    size = subject.source.size
    return Damage((Edit(at, size - at, b""),), DamagePlace(f"cut at {at}", start, at))


@CUTS.fault("The file is cut inside a page record's header.")
def _cut_in_page_header(subject: Subject) -> Damage | None:
    record = subject.record(data=True)
    return None if record is None else _cut(subject, record.start + 3, record.start)


@CUTS.fault("The file is cut inside a page's data.")
def _cut_in_page(subject: Subject) -> Damage | None:
    _, block = subject.main_block()
    pages = np.flatnonzero(block.page_source > 0)
    if not len(pages):
        return None
    start = int(block.page_source[pages[subject.pick(len(pages))]])
    if not subject.plain:
        # The right place is the first page behind the cut, or the next RAMBlock's header.
        return Damage(
            _cut(subject, start + 100, start).edits, DamagePlace("cut in pages", start, subject.index.end)
        )
    return _cut(subject, start + 100, start - 300)


@CUTS.fault("The file is cut exactly behind a page record.")
def _cut_behind_page(subject: Subject) -> Damage | None:
    record = subject.record(data=True)
    return None if record is None else _cut(subject, record.end, record.start)


@CUTS.fault("The file is cut between RAM and the devices.")
def _cut_before_devices(subject: Subject) -> Damage | None:
    first = next((section for section in subject.index.devices), None)
    return None if first is None else _cut(subject, first.offset, first.offset - 16)


@CUTS.fault("The file is cut inside a device's state.")
def _cut_in_device(subject: Subject) -> Damage | None:
    section = subject.device()
    return _cut(subject, (section.data_offset + section.data_end) // 2, section.offset)


@CUTS.fault("The file is cut inside a footer.")
def _cut_in_footer(subject: Subject) -> Damage | None:
    section = subject.device()
    return _cut(subject, section.data_end + 2, section.offset) if subject.index.footers else None


@CUTS.fault("The file is cut between two devices.")
def _cut_between_devices(subject: Subject) -> Damage | None:
    section = subject.device()
    return _cut(subject, section.offset, section.offset - 16)


@CUTS.fault("The file is cut before the end marker.")
def _cut_before_end(subject: Subject) -> Damage | None:
    at = subject.index.end_marker
    return None if at is None else _cut(subject, at, at - 16)


@CUTS.fault("The file is cut behind the end marker: the vmdesc is gone.")
def _cut_before_vmdesc(subject: Subject) -> Damage | None:
    vmdesc = subject.index.vmdesc
    return None if vmdesc is None else _cut(subject, vmdesc.offset, vmdesc.offset - 16)


@CUTS.fault("The file is cut inside the vmdesc.")
def _cut_in_vmdesc(subject: Subject) -> Damage | None:
    vmdesc = subject.index.vmdesc
    return None if vmdesc is None else _cut(subject, vmdesc.offset + 5 + vmdesc.length // 2, vmdesc.offset)
