"""Faults planted in the page records of a plain stream: lost, doubled, misplaced, with wrong flags."""

from __future__ import annotations

from validators.faults.files.catalogue import Catalogue
from validators.faults.files.subject import Damage, DamagePlace, Edit, Record, Subject
from validators.vmstate.stream import format as fmt

RECORDS = Catalogue()


def _page_size(subject: Subject) -> int:
    return subject.index.page_size


def _word(subject: Subject, page: int, flags: int) -> bytes:
    return (page * _page_size(subject) | flags).to_bytes(8, "big")


def _place(subject: Subject, record: Record) -> DamagePlace:
    page = subject.page_place(record.block, record.page)
    return DamagePlace(page.words, record.start, record.end, page.block, page.offsets)


def _relabel(subject: Subject, record: Record | None, flags: int) -> Damage | None:
    """Give a record other flags."""
    if record is None:
        return None
    word = _word(subject, record.page, flags)
    return Damage((Edit(record.start, 8, word),), _place(subject, record))


@RECORDS.fault("A page record is dropped.")
def _page_dropped(subject: Subject) -> Damage | None:
    record = subject.record(data=True)
    if record is None:
        return None
    length = record.end - record.start
    return Damage((Edit(record.start, length, b""),), subject.page_place(record.block, record.page))


@RECORDS.fault("A zero-page record is dropped.")
def _zero_page_dropped(subject: Subject) -> Damage | None:
    record = subject.record(data=False)
    if record is None:
        return None
    length = record.end - record.start
    return Damage((Edit(record.start, length, b""),), subject.page_place(record.block, record.page))


@RECORDS.fault("A page record is in the stream twice, with the same content.")
def _page_doubled(subject: Subject) -> Damage | None:
    record = subject.record(data=True)
    if record is None:
        return None
    copy = subject.bytes_at(record.start, record.end)
    return Damage((Edit(record.end, 0, copy),), subject.page_place(record.block, record.page))


@RECORDS.fault("A page record is in the stream twice, the second time with other content.")
def _page_doubled_differently(subject: Subject) -> Damage | None:
    record = subject.record(data=True)
    if record is None:
        return None
    copy = bytearray(subject.bytes_at(record.start, record.end))
    copy[8 + subject.pick(_page_size(subject))] ^= 0xFF
    return Damage((Edit(record.end, 0, bytes(copy)),), subject.page_place(record.block, record.page))


@RECORDS.fault("A zero-page record is in the stream twice.")
def _zero_page_doubled(subject: Subject) -> Damage | None:
    record = subject.record(data=False)
    if record is None:
        return None
    copy = subject.bytes_at(record.start, record.end)
    return Damage((Edit(record.end, 0, copy),), subject.page_place(record.block, record.page))


@RECORDS.fault("A page is marked as zero and its data left out.", needs_golden=True)
def _page_marked_zero(subject: Subject) -> Damage | None:
    record = subject.record(data=True)
    if record is None:
        return None
    zero = _word(subject, record.page, fmt.FLAG_ZERO | fmt.FLAG_CONTINUE) + b"\0"
    edit = Edit(record.start, record.end - record.start, zero)
    return Damage((edit,), subject.page_place(record.block, record.page))


@RECORDS.fault("A zero page is replaced by a page of data.", needs_golden=True)
def _zero_page_filled(subject: Subject) -> Damage | None:
    record = subject.record(data=False)
    if record is None:
        return None
    data = _word(subject, record.page, fmt.FLAG_PAGE | fmt.FLAG_CONTINUE) + subject.random.bytes(
        _page_size(subject)
    )
    edit = Edit(record.start, record.end - record.start, data)
    return Damage((edit,), subject.page_place(record.block, record.page))


@RECORDS.fault("A zero-page record carries a fill byte that is not zero.")
def _zero_page_with_fill(subject: Subject) -> Damage | None:
    record = subject.record(data=False)
    if record is None:
        return None
    return Damage((Edit(record.end - 1, 1, b"\x5a"),), _place(subject, record))


@RECORDS.fault("A page with data is marked as zero, and its data still follows.")
def _zero_marker_with_data(subject: Subject) -> Damage | None:
    return _relabel(subject, subject.record(data=True), fmt.FLAG_ZERO | fmt.FLAG_CONTINUE)


@RECORDS.fault("A page record has the offset of another page.")
def _wrong_offset(subject: Subject) -> Damage | None:
    record, other = subject.record(data=True), subject.record(data=True)
    if record is None or other is None or record.page == other.page:
        return None
    word = _word(subject, other.page, fmt.FLAG_PAGE | fmt.FLAG_CONTINUE)
    return Damage((Edit(record.start, 8, word),), subject.page_place(record.block, record.page))


@RECORDS.fault("A page record has an offset behind the end of its RAMBlock.")
def _offset_outside(subject: Subject) -> Damage | None:
    record = subject.record(data=True)
    if record is None:
        return None
    pages = subject.index.blocks[record.block].pages
    word = _word(subject, pages + subject.pick(1000), fmt.FLAG_PAGE | fmt.FLAG_CONTINUE)
    return Damage((Edit(record.start, 8, word),), _place(subject, record))


def _renamed(subject: Subject, name: bytes) -> Damage | None:
    record = subject.record(data=True)
    if record is None:
        return None
    main = subject.index.blocks[record.block].idstr.encode()
    head = _word(subject, record.page, fmt.FLAG_PAGE) + bytes([len(name)]) + name
    # The next record must name its own RAMBlock again, or all that follow would be in the wrong one.
    data = subject.bytes_at(record.start + 8, record.end)
    follower = int.from_bytes(subject.bytes_at(record.end, record.end + 8), "big")
    if not follower & fmt.FLAG_CONTINUE:
        return None
    again = (follower & ~fmt.FLAG_CONTINUE).to_bytes(8, "big") + bytes([len(main)]) + main
    edit = Edit(record.start, record.end + 8 - record.start, head + data + again)
    place = _place(subject, record)
    return Damage((edit,), place)


@RECORDS.fault("A page record names another RAMBlock.")
def _wrong_block(subject: Subject) -> Damage | None:
    others = [block for block in subject.index.blocks if block is not subject.main_block()[1]]
    return _renamed(subject, others[0].idstr.encode()) if others else None


@RECORDS.fault("A page record names a RAMBlock that does not exist.")
def _unknown_block(subject: Subject) -> Damage | None:
    return _renamed(subject, b"pc.nowhere")


@RECORDS.fault("A page record has flags that mean nothing.")
def _flags_meaningless(subject: Subject) -> Damage | None:
    flags = fmt.FLAG_PAGE | fmt.FLAG_ZERO | fmt.FLAG_CONTINUE
    return _relabel(subject, subject.record(data=True), flags)


@RECORDS.fault("A page record is marked as XBZRLE.")
def _flags_xbzrle(subject: Subject) -> Damage | None:
    return _relabel(subject, subject.record(data=True), fmt.FLAG_XBZRLE | fmt.FLAG_CONTINUE)


@RECORDS.fault("A page record is marked as compressed.")
def _flags_compressed(subject: Subject) -> Damage | None:
    return _relabel(subject, subject.record(data=True), fmt.FLAG_COMPRESS_PAGE | fmt.FLAG_CONTINUE)


@RECORDS.fault("An end-of-section word is in the middle of the pages.")
def _early_end(subject: Subject) -> Damage | None:
    record = subject.record(data=True)
    if record is None:
        return None
    word = fmt.FLAG_EOS.to_bytes(8, "big")
    # The reader takes what follows for a section, behind the place where the footer would be.
    place = DamagePlace("end word among pages", record.start, record.start + 64)
    return Damage((Edit(record.start, 0, word),), place)
