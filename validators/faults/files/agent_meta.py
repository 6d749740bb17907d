"""Faults planted in the pages that describe the agent: lost, of another moment, or with impossible words."""

from __future__ import annotations

from collections.abc import Sequence

from guest_images.agent.format import (
    MAILBOX_MAGIC,
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


def _blank(subject: Subject, pages: Sequence[SpecialPage], known_at: SpecialPage) -> Damage:
    """Make pages zero; `known_at` is the page whose violation names the loss."""
    starts = sorted(_at(subject, page) for page in pages)
    edits = tuple(Edit(start, PAGE_BYTES, bytes(PAGE_BYTES)) for start in starts)
    return Damage(edits, subject.page_place(known_at.block, known_at.page))


def _directories(subject: Subject, thread: SpecialPage | None = None) -> list[SpecialPage]:
    """Return the live agent's directory pages that list pages, of one thread or of all."""
    return [
        page
        for page in subject.scan.directories
        if page[PageWord.NONCE] == subject.nonce
        and page[DirectoryWord.COUNT]
        and (thread is None or page[DirectoryWord.THREAD] == thread[ThreadWord.NUMBER])
    ]


def _move_counter(subject: Subject, change: int) -> Damage | None:
    page = _thread_page(subject)
    if page is None or page[ThreadWord.STEPS] + change < 0:
        return None
    return _set_word(subject, page, ThreadWord.STEPS, page[ThreadWord.STEPS] + change)


@AGENT_META.fault("The thread page is from after T0: its counter is ahead of all pages.")
def _counter_ahead(subject: Subject) -> Damage | None:
    count = subject.thread_pages[0][ThreadWord.PAGES] if subject.thread_pages else 0
    return _move_counter(subject, 3 * count + subject.pick(1000))


@AGENT_META.fault("The thread page is from before T0: its counter is behind all pages.")
def _counter_behind(subject: Subject) -> Damage | None:
    lowest = min((page[ThreadWord.STEPS] for page in subject.thread_pages), default=0)
    return _move_counter(subject, -(lowest // 2 + 1)) if lowest > 10 else None


@AGENT_META.fault("The agent's control page is zero.")
def _control_lost(subject: Subject) -> Damage | None:
    page = subject.control
    return _blank(subject, [page], page) if page else None


@AGENT_META.fault("The control page of a bare agent is that of its boot: it has the mailbox alone.")
def _control_of_boot(subject: Subject) -> Damage | None:
    page = subject.control
    if page is None or page[ControlWord.MAILBOX] != MAILBOX_MAGIC:
        return None
    start, first = _at(subject, page), ControlWord.MAILBOX * WORD_BYTES
    behind = (ControlWord.BOOT_TICKS + 1) * WORD_BYTES
    edits = (
        Edit(start, first, bytes(first)),
        Edit(start + behind, PAGE_BYTES - behind, bytes(PAGE_BYTES - behind)),
    )
    return Damage(edits, subject.page_place(page.block, page.page))


@AGENT_META.fault("One bit of a directory page is flipped.")
def _directory_corrupt(subject: Subject) -> Damage | None:
    mine = _directories(subject)
    if not mine:
        return None
    page = mine[subject.pick(len(mine))]
    start = _at(subject, page) + DirectoryWord.FRAMES * WORD_BYTES
    at = start + subject.pick(page[DirectoryWord.COUNT] * WORD_BYTES)
    flipped = bytes([subject.bytes_at(at, at + 1)[0] ^ 1 << subject.pick(8)])
    return Damage((Edit(at, 1, flipped),), subject.page_place(page.block, page.page))


@AGENT_META.fault("All directory pages of a thread are zero.")
def _directories_lost(subject: Subject) -> Damage | None:
    thread = _thread_page(subject)
    lost = _directories(subject, thread) if thread else []
    # Nothing in the file says where they were; the thread's own page is where the loss is known.
    return _blank(subject, lost, thread) if thread and lost else None


@AGENT_META.fault("A directory page is replaced by a page of zeros.")
def _directory_zero(subject: Subject) -> Damage | None:
    thread = _thread_page(subject)
    mine = _directories(subject, thread) if thread else []
    return _blank(subject, [mine[subject.pick(len(mine))]], thread) if thread and mine else None


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
