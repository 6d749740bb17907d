"""Faults planted in the content of pages: flipped bits, pages from another time, misplaced pages."""

from __future__ import annotations

import numpy as np

from guest_images.agent import pages as ap
from guest_images.agent.format import PAGE_BYTES, WORD_BYTES, DataWord
from validators.faults.files.catalogue import Catalogue
from validators.faults.files.subject import Damage, Edit, Subject, Words

CONTENT = Catalogue()


def _one(value: int) -> Words:
    return np.array([value], np.uint64)


def _agent_page(subject: Subject, min_step: int = 0) -> int | None:
    """Pick the row of a random agent page that was not written before `min_step`, None if there is none."""
    rows = np.flatnonzero(subject.agent_pages.header[:, DataWord.STEP] >= np.uint64(min_step))
    return int(rows[subject.pick(len(rows))]) if len(rows) else None


def _source(subject: Subject, row: int) -> int:
    pages = subject.agent_pages
    return int(subject.index.blocks[int(pages.block[row])].page_source[int(pages.page[row])])


def _replace(subject: Subject, row: int, data: bytes) -> Damage:
    pages = subject.agent_pages
    place = subject.page_place(int(pages.block[row]), int(pages.page[row]))
    return Damage((Edit(_source(subject, row), len(data), data),), place)


def _rewritten(subject: Subject, row: int, later: bool) -> bytes | None:
    """Return the page as its next or its previous write makes it, None if there is no such write."""
    header = ap.DataHeader.of(subject.agent_pages.header[row])
    schedule = subject.schedule(header.thread)
    if later:
        step = int(schedule.next_write(_one(header.index), _one(header.step))[0])
        generation = header.generation + 1
    else:
        if header.generation <= 1:
            return None
        step = _previous_step(schedule, header)
        generation = header.generation - 1
    return schedule.content(header.nonce, _one(header.index), _one(generation), _one(step)).tobytes()


def _previous_step(schedule: ap.Schedule, header: ap.DataHeader) -> int:
    """Return the step of the last but one write of a page."""
    generation, step = schedule.state(header.step)
    assert int(generation[header.index]) == header.generation - 1
    return int(step[header.index])


@CONTENT.fault("One bit of an agent page is flipped.")
def _bit_flip(subject: Subject) -> Damage | None:
    row = _agent_page(subject)
    if row is None:
        return None
    start = _source(subject, row)
    data = bytearray(subject.bytes_at(start, start + PAGE_BYTES))
    data[subject.pick(len(data))] ^= 1 << subject.pick(8)
    return _replace(subject, row, bytes(data))


@CONTENT.fault("One bit of a page that is not the agent's is flipped.", needs_golden=True)
def _bit_flip_elsewhere(subject: Subject) -> Damage | None:
    number, block = subject.main_block()
    pages = np.flatnonzero(block.page_source > 0)
    agents = subject.scan.data.page[subject.scan.data.block == number]
    special = [
        page.page for page in (*subject.scan.controls, *subject.scan.threads, *subject.scan.directories)
    ]
    pages = np.setdiff1d(pages, np.concatenate([agents, np.array(special, np.int64)]))
    if not len(pages):
        return None
    page = int(pages[subject.pick(len(pages))])
    at = int(block.page_source[page]) + subject.pick(block.page_size)
    flipped = bytes([subject.bytes_at(at, at + 1)[0] ^ 1 << subject.pick(8)])
    return Damage((Edit(at, 1, flipped),), subject.page_place(number, page))


@CONTENT.fault("A page's data is all zeros.")
def _page_blanked(subject: Subject) -> Damage | None:
    row = _agent_page(subject)
    return None if row is None else _replace(subject, row, bytes(PAGE_BYTES))


@CONTENT.fault("A page has the content of its next write: the guest after T0.")
def _page_from_later(subject: Subject) -> Damage | None:
    row = _agent_page(subject)
    data = None if row is None else _rewritten(subject, row, True)
    return None if row is None or data is None else _replace(subject, row, data)


@CONTENT.fault("A page has the content of its previous write: the guest before T0.")
def _page_from_earlier(subject: Subject) -> Damage | None:
    for _ in range(64):
        row = _agent_page(subject)
        data = None if row is None else _rewritten(subject, row, False)
        if row is not None and data is not None:
            return _replace(subject, row, data)
    return None


@CONTENT.fault("A page is half of its next write and half right, and was not being written at T0.")
def _page_torn(subject: Subject) -> Damage | None:
    row = _agent_page(subject)
    data = None if row is None else _rewritten(subject, row, True)
    if row is None or data is None:
        return None
    cut = WORD_BYTES * (16 + subject.pick(480))
    start = _source(subject, row)
    return _replace(subject, row, data[:cut] + subject.bytes_at(start + cut, start + PAGE_BYTES))


@CONTENT.fault("Two pages have each other's content.")
def _pages_swapped(subject: Subject) -> Damage | None:
    first, second = _agent_page(subject), _agent_page(subject)
    if first is None or second is None or first == second:
        return None
    starts = sorted((_source(subject, row), row) for row in (first, second))
    data = [subject.bytes_at(start, start + PAGE_BYTES) for start, _ in starts]
    edits = (Edit(starts[0][0], len(data[1]), data[1]), Edit(starts[1][0], len(data[0]), data[0]))
    pages = subject.agent_pages
    return Damage(edits, subject.page_place(int(pages.block[first]), int(pages.page[first])))


@CONTENT.fault("A page has the content of another page.")
def _page_copied_over(subject: Subject) -> Damage | None:
    first, second = _agent_page(subject), _agent_page(subject)
    if first is None or second is None or first == second:
        return None
    start = _source(subject, second)
    return _replace(subject, first, subject.bytes_at(start, start + PAGE_BYTES))


@CONTENT.fault("The second half of a page is that of another page.")
def _page_halved(subject: Subject) -> Damage | None:
    first, second = _agent_page(subject), _agent_page(subject)
    if first is None or second is None or first == second:
        return None
    at, other, half = _source(subject, first), _source(subject, second), PAGE_BYTES // 2
    data = subject.bytes_at(at, at + half) + subject.bytes_at(other + half, other + 2 * half)
    return _replace(subject, first, data)


@CONTENT.fault("A page's content is shifted by eight bytes.")
def _page_shifted(subject: Subject) -> Damage | None:
    row = _agent_page(subject)
    if row is None:
        return None
    start = _source(subject, row)
    data = subject.bytes_at(start, start + PAGE_BYTES)
    return _replace(subject, row, data[WORD_BYTES:] + data[:WORD_BYTES])
