"""Judge the pages that describe the agent: control, thread and directory pages of one moment, none lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from guest_images.agent.format import (
    DIRECTORY_ENTRIES,
    FINE_BUCKETS,
    HISTOGRAM_BUCKETS,
    LONG_GAPS_KEPT,
    MAILBOX_MAGIC,
    AgentState,
    ControlWord,
    DirectoryWord,
    PageWord,
    ServeArgument,
    ThreadWord,
    WriterState,
)
from harness.codes import Code
from validators.oracles.o2_write_order.scan import AgentScan, SpecialPage
from validators.verdict import Tally, Violation
from validators.vmstate.memory_map import MemoryMap
from validators.vmstate.pages import PageReader

_MAILBOX = frozenset(
    (
        *(word for word in ControlWord if word >= ControlWord.MAILBOX),
        *range(ControlWord.ARGUMENTS, ControlWord.ARGUMENTS + len(ServeArgument)),
    )
)
"""Words that only an agent without an operating system uses."""

_CONTROL_SINCE_2 = frozenset((ControlWord.COUNTER, ControlWord.NS_PER_TICK))
_THREAD_SINCE_2 = frozenset((ThreadWord.COUNTER, ThreadWord.NS_PER_TICK))
_USED_BY_CONTROL = frozenset((*PageWord, *ControlWord)) - _MAILBOX
_USED_BY_THREAD = frozenset(
    (
        *PageWord,
        *ThreadWord,
        *range(ThreadWord.LONG_GAP_TIMES, ThreadWord.LONG_GAP_TIMES + 2 * LONG_GAPS_KEPT),
        *range(ThreadWord.HISTOGRAM, ThreadWord.HISTOGRAM + HISTOGRAM_BUCKETS),
        *range(ThreadWord.FINE_HISTOGRAM, ThreadWord.FINE_HISTOGRAM + FINE_BUCKETS),
    )
)
# A running writer stores its time every few milliseconds. Below this it is the guest's scheduling.
_LATE_NS = 1_000_000_000
_MAX_REPORTED = 8


@dataclass(frozen=True)
class MetaPages:
    """The live agent's pages that describe it.

    Attributes:
        control: the control page.
        threads: thread pages by the thread's number.
        memory: the guest's address map.
    """

    control: SpecialPage
    threads: Mapping[int, SpecialPage]
    memory: MemoryMap


def judge_meta_pages(reader: PageReader, scan: AgentScan, meta: MetaPages, tally: Tally) -> None:
    """Check that the pages which describe the agent are all there, are possible, and are of one moment."""
    for violation in _violations(reader, scan, meta):
        tally.add(violation)


def page_violation(
    reader: PageReader, page: SpecialPage, code: Code, sentence: str, memory: MemoryMap | None = None,
    thread: int | None = None, expected: str = "", found: str = "",
) -> Violation:  # fmt: skip
    """Return a violation with the place of one page that describes the agent."""
    block = reader.index.blocks[page.block]
    offset = page.page * block.page_size
    return Violation(
        "write-order",
        code,
        sentence,
        block.idstr,
        offset,
        memory.address(page.block, offset) if memory else None,
        abs(int(block.page_source[page.page])),
        expected,
        found,
        thread,
    )


def _violations(reader: PageReader, scan: AgentScan, meta: MetaPages) -> Iterator[Violation]:
    def at(page: SpecialPage, code: Code, sentence: str, thread: int | None = None) -> Violation:
        return page_violation(reader, page, code, sentence, meta.memory, thread)

    for problem in _impossible_control(meta.control):
        yield at(meta.control, Code.WRITE_ORDER_BAD_CONTROL_PAGE, f"The agent's control page {problem}.")
    for number, page in sorted(meta.threads.items()):
        for problem in _impossible_thread(meta.control, page):
            sentence = f"The thread page of agent thread {number} {problem}."
            yield at(page, Code.WRITE_ORDER_BAD_THREAD_PAGE, sentence, number)
        if page[ThreadWord.ERRORS]:
            yield at(
                page,
                Code.WRITE_ORDER_AGENT_ERRORS,
                f"Before T0 agent thread {number} had found {page[ThreadWord.ERRORS]} wrong pages, the first "
                f"of them page {page[ThreadWord.FIRST_ERROR]}, when it came to overwrite them.",
                number,
            )
        if problem := _other_moment(meta.control, page):
            yield at(page, Code.WRITE_ORDER_OTHER_MOMENT, f"Agent thread {number} {problem}.", number)
    if problem := _lost_threads(scan, meta):
        yield at(meta.control, Code.WRITE_ORDER_LOST_THREAD, problem)
    for thread, sentence in _lost_directories(scan, meta):
        yield at(meta.threads[thread], Code.WRITE_ORDER_NO_DIRECTORY_PAGE, sentence, thread)


def _unused(page: SpecialPage, used: frozenset[int]) -> list[str]:
    """Return what is wrong with the words of a page that the agent leaves zero."""
    number = next((int(word) for word in np.flatnonzero(page.words) if int(word) not in used), None)
    return (
        [] if number is None else [f"holds {page[number]:#x} in word {number}, which the agent never writes"]
    )


def _impossible_control(page: SpecialPage) -> list[str]:
    bare, first = page[ControlWord.MAILBOX] == MAILBOX_MAGIC, page[ControlWord.VERSION] == 1
    used = _USED_BY_CONTROL - _CONTROL_SINCE_2 if first else _USED_BY_CONTROL
    problems = _unused(page, used | _MAILBOX if bare else used)
    if page[ControlWord.STATE] > (AgentState.PAUSED if first else AgentState.ENDING):
        problems.append(f"has the unknown state {page[ControlWord.STATE]}")
    return problems


def _impossible_thread(control: SpecialPage, page: SpecialPage) -> list[str]:
    first = control[ControlWord.VERSION] == 1
    problems = _unused(page, _USED_BY_THREAD - _THREAD_SINCE_2 if first else _USED_BY_THREAD)
    if page[ThreadWord.NS_PER_TICK] != control[ControlWord.NS_PER_TICK]:
        problems.append("has another length of the counter's ticks than the control page")
    if page[ThreadWord.STATE] > max(WriterState):
        problems.append(f"has the unknown state {page[ThreadWord.STATE]}")
    if page[ThreadWord.STATE] == WriterState.NOT_STARTED and page[ThreadWord.STEPS]:
        problems.append(f"says that it has not started, and counts {page[ThreadWord.STEPS]} steps")
    if page[ThreadWord.FIRST_ERROR] and not page[ThreadWord.ERRORS]:
        # core/writer.c names the page before it counts it, so T0 may lie in between.
        problems.append(f"names page {page[ThreadWord.FIRST_ERROR]} as wrong, and counts no wrong page")
    timed = page[ThreadWord.WRITES_TIMED]
    for name, start, buckets in (
        ("histogram", ThreadWord.HISTOGRAM, HISTOGRAM_BUCKETS),
        ("fine histogram", ThreadWord.FINE_HISTOGRAM, FINE_BUCKETS),
    ):
        # core/statistics.c adds to the histograms first, so at T0 one of them may be ahead by one.
        counted = sum(int(word) for word in page.words[start : start + buckets])
        if counted - timed not in (0, 1):
            problems.append(f"has {counted} writes in its {name}, and says that {timed} were timed")
    return problems


def _other_moment(control: SpecialPage, page: SpecialPage) -> str:
    """Return what tells by the clocks that a thread page and the control page are of different moments.

    A writer renews the control page's clock before its own, so its own can never be ahead. Agents that were
    built before thread pages had a clock leave it zero. The agent is running before a writer writes, and
    paused only after all are parked (linux/threads.c).
    """
    writing, state = page[ThreadWord.STATE] == WriterState.WRITING, control[ControlWord.STATE]
    if writing and state in (AgentState.IDLE, AgentState.PAUSED, AgentState.ENDING):
        return (
            f"was writing while by the control page the agent was {AgentState(state).name.lower()}: one of "
            "the two pages is not of T0"
        )
    own, common = page[ThreadWord.MONOTONIC_NS], control[ControlWord.MONOTONIC_NS]
    if not own:
        return ""
    if own > common:
        return (
            f"wrote {(own - common) / 1e6:.3f} ms after the time in the control page, which is not of T0 too"
        )
    allowed = _LATE_NS + 2 * page[ThreadWord.LONGEST_GAP_NS]
    if writing and common - own > allowed:
        return (
            f"wrote last {(common - own) / 1e9:.3f} s before the time in the control page, although it was "
            "writing: one of the two pages is not of T0"
        )
    return ""


def _lost_threads(scan: AgentScan, meta: MetaPages) -> str:
    """Return what is wrong where the control page counts other threads or pages than there are."""
    nonce, threads = meta.control[PageWord.NONCE], meta.control[ControlWord.THREADS]
    beyond = {
        page[ThreadWord.NUMBER]
        for page in scan.threads
        if page[PageWord.NONCE] == nonce and page[ThreadWord.NUMBER] >= threads
    }
    if beyond:
        return (
            f"The agent's control page says that there are {threads} threads, and the thread page of thread "
            f"{min(beyond)} is in RAM."
        )
    counted = sum(page[ThreadWord.PAGES] for page in meta.threads.values())
    data_pages = meta.control[ControlWord.DATA_PAGES]
    usable = all(_usable(meta.control, page) for page in meta.threads.values())
    # A thread page that is missing or cannot be used has a violation of its own.
    if usable and len(meta.threads) == threads and counted != data_pages:
        return f"The agent has {data_pages} data pages by its control page, {counted} by its thread pages."
    return ""


def _usable(control: SpecialPage, page: SpecialPage) -> bool:
    """Return whether a thread has no more pages than all threads together, so that counting them ends."""
    return page[ThreadWord.PAGES] <= control[ControlWord.DATA_PAGES]


def _lost_directories(scan: AgentScan, meta: MetaPages) -> Iterator[tuple[int, str]]:
    """Yield thread and sentence for each run of data pages whose directory page is not in RAM.

    A directory page that is corrupt has a violation of its own.
    """
    listed = {
        (page[DirectoryWord.THREAD], page[DirectoryWord.FIRST_INDEX]): page[DirectoryWord.COUNT]
        for page in scan.directories
        if page[PageWord.NONCE] == meta.control[PageWord.NONCE]
    }
    for thread, page in sorted(meta.threads.items()):
        if not _usable(meta.control, page):
            continue
        pages = page[ThreadWord.PAGES]
        lost = [
            first
            for first in range(0, pages, DIRECTORY_ENTRIES)
            if listed.get((thread, first)) != min(DIRECTORY_ENTRIES, pages - first)
        ]
        more = f" Of this thread {len(lost)} directory pages are lost." if len(lost) > 1 else ""
        for first in lost[:_MAX_REPORTED]:
            last = min(first + DIRECTORY_ENTRIES, pages) - 1
            where = f"pages {first} to {last} of agent thread {thread}"
            yield thread, f"The directory page of {where} is not in RAM.{more}"
