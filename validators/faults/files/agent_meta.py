"""Faults planted in the pages that describe the agent: lost, of another moment, or with impossible words."""

from __future__ import annotations

from guest_images.agent.format import (
    PAGE_BYTES,
    WORD_BYTES,
    ControlWord,
    DirectoryWord,
    PageWord,
    ThreadWord,
)
from validators.faults.files.catalogue import Catalogue
from validators.faults.files.subject import Damage, Edit, Subject
from validators.oracles.o2_write_order.scan import SpecialPage

AGENT_META = Catalogue()

_UNUSED_CONTROL_WORD, _UNUSED_THREAD_WORD = 300, 500


def _at(subject: Subject, page: SpecialPage) -> int:
    """Return the offset of a page in the file."""
    return int(subject.index.blocks[page.block].page_source[page.page])


def _set_word(subject: Subject, page: SpecialPage, word: int, value: int) -> Damage:
    data = value.to_bytes(WORD_BYTES, "little")
    edit = Edit(_at(subject, page) + word * WORD_BYTES, WORD_BYTES, data)
    return Damage((edit,), subject.page_place(page.block, page.page))


def _thread_page(subject: Subject) -> SpecialPage | None:
    pages = subject.thread_pages
    return pages[subject.pick(len(pages))] if pages else None


def _directories(subject: Subject, thread: SpecialPage) -> list[SpecialPage]:
    return [
        page
        for page in subject.scan.directories
        if page[PageWord.NONCE] == subject.nonce
        and page[DirectoryWord.THREAD] == thread[ThreadWord.NUMBER]
        and page[DirectoryWord.COUNT]
    ]


@AGENT_META.fault("All directory pages of a thread are zero.")
def _directories_lost(subject: Subject) -> Damage | None:
    thread = _thread_page(subject)
    lost = _directories(subject, thread) if thread else []
    edits = sorted((Edit(_at(subject, page), PAGE_BYTES, bytes(PAGE_BYTES)) for page in lost), key=_offset)
    # Nothing in the file says where they were; the thread's own page is where the loss is known.
    return Damage(tuple(edits), subject.page_place(thread.block, thread.page)) if thread and edits else None


def _offset(edit: Edit) -> int:
    return edit.offset


@AGENT_META.fault("A directory page is replaced by a page of zeros.")
def _directory_zero(subject: Subject) -> Damage | None:
    thread = _thread_page(subject)
    mine = _directories(subject, thread) if thread else []
    if thread is None or not mine:
        return None
    edit = Edit(_at(subject, mine[subject.pick(len(mine))]), PAGE_BYTES, bytes(PAGE_BYTES))
    return Damage((edit,), subject.page_place(thread.block, thread.page))


@AGENT_META.fault("The control page counts one data page less than the threads have.")
def _data_pages_lost(subject: Subject) -> Damage | None:
    page = subject.control
    if page is None:
        return None
    return _set_word(subject, page, ControlWord.DATA_PAGES, page[ControlWord.DATA_PAGES] - 1)


@AGENT_META.fault("The control page counts one thread less than there are.")
def _thread_forgotten(subject: Subject) -> Damage | None:
    page = subject.control
    if page is None or page[ControlWord.THREADS] < 2:
        return None
    return _set_word(subject, page, ControlWord.THREADS, page[ControlWord.THREADS] - 1)


@AGENT_META.fault("The agent had found a wrong page in the source guest.")
def _agent_error(subject: Subject) -> Damage | None:
    page = _thread_page(subject)
    return _set_word(subject, page, ThreadWord.ERRORS, 1) if page else None


@AGENT_META.fault("A word of a thread page that the agent never writes is not zero.")
def _thread_page_word(subject: Subject) -> Damage | None:
    page = _thread_page(subject)
    return _set_word(subject, page, _UNUSED_THREAD_WORD, 1 << subject.pick(64)) if page else None


@AGENT_META.fault("A word of the control page that the agent never writes is not zero.")
def _control_page_word(subject: Subject) -> Damage | None:
    page = subject.control
    return _set_word(subject, page, _UNUSED_CONTROL_WORD, 1 << subject.pick(64)) if page else None


@AGENT_META.fault("A bucket of a thread's histogram counts writes that were never timed.")
def _histogram_wrong(subject: Subject) -> Damage | None:
    page = _thread_page(subject)
    word = ThreadWord.HISTOGRAM + subject.pick(8)
    return _set_word(subject, page, word, page[word] + 2) if page else None


@AGENT_META.fault("A thread is from after T0 by its clock.")
def _thread_from_later(subject: Subject) -> Damage | None:
    page, control = _thread_page(subject), subject.control
    if page is None or control is None or not page[ThreadWord.MONOTONIC_NS]:
        return None
    later = control[ControlWord.MONOTONIC_NS] + 1
    return _set_word(subject, page, ThreadWord.MONOTONIC_NS, later)
