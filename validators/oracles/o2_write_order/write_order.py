"""Oracle 2, write order: the agent's pages are exactly one prefix of the write order of each thread."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from guest_images.agent import pages as ap
from guest_images.agent.format import (
    FORMAT_VERSION,
    PAGE_BYTES,
    READABLE_VERSIONS,
    AgentState,
    ControlWord,
    DataWord,
    PageWord,
    ThreadWord,
)
from harness.codes import Code
from validators.oracles.o2_write_order.booted_anew import waiting_agent
from validators.oracles.o2_write_order.diagnosis import Diagnosis, diagnose
from validators.oracles.o2_write_order.gone_agent import REMAINS, excuse_remains, may_be_remains
from validators.oracles.o2_write_order.meta_pages import MetaPages, judge_meta_pages, page_violation
from validators.oracles.o2_write_order.places import AgentPlaces, find_places
from validators.oracles.o2_write_order.scan import NAME, AgentScan, DataPages, SpecialPage, scan_agent
from validators.verdict import T0, CheckResult, Tally, Violation
from validators.vmstate.pages import PageReader

_EXPLANATION = "Per agent thread, all pages are those of exactly one moment of its known write order."
# The share of pages that must agree on another step count to overrule the counter in the thread page. If RAM
# is saved in one pass without any protection, while a writer makes r random passes over it, 1 - r/4 of the
# pages agree with the middle of the save and 1 - r/2 with its beginning (r up to 2). If the first share is
# above two thirds, the second is above half of it. So pages from after T0 never overrule a counter from T0.
_OVERRULE_SHARE = 0.7

NO_AGENT = "There is no agent in this guest."
"""Why the check is skipped for a file without any page of an agent."""

# More than any guest has vCPUs.
_MOST_THREADS = 4 << 10
_BLANK = bytes(PAGE_BYTES)

Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


def check_write_order(reader: PageReader, agent_ran: bool = False) -> CheckResult:
    """Judge every agent page of the file; SKIP if the guest has no agent.

    Args:
        reader: of the file.
        agent_ran: an agent is known to have run at T0. Otherwise the pages of one that had gone by then, and
            whose memory others have used, are no violation.
    """
    tally = Tally(NAME, _EXPLANATION)
    scan = scan_agent(reader)
    control = _live_control(scan)
    if control is None:
        return _without_control(reader, scan, tally, agent_ran)
    if control[ControlWord.STATE] == AgentState.ENDING and control[ControlWord.VERSION] == FORMAT_VERSION:
        return tally.skip("The agent was ending at T0, and wiped its pages.")
    result = _judge(reader, scan, control, tally)
    return result if agent_ran else excuse_remains(reader, scan, control, result)


def _judge(reader: PageReader, scan: AgentScan, control: SpecialPage, tally: Tally) -> CheckResult:
    """Judge the pages of an agent by its control page."""
    if not _judge_control(reader, control, tally):
        return tally.result()
    places = find_places(reader, scan, control, tally)
    meta = MetaPages(control, places.thread_pages, places.memory)
    judge_meta_pages(reader, scan, meta, tally)
    verified, steps = 0, []
    left = sum(block.pages for block in reader.index.blocks)
    for thread in range(control[ControlWord.THREADS]):
        judge = _ThreadJudge(reader, control, thread, places, tally)
        pages = judge.run(left)
        verified, left = verified + pages, left - pages
        steps.append(judge.steps)
    tally.facts.update(
        {
            "pages verified": verified,
            "threads": control[ControlWord.THREADS],
            "pattern": ap.PATTERNS[control[ControlWord.PATTERN]],
            "monotonic_ns at T0": control[ControlWord.MONOTONIC_NS],
            "realtime_ns at T0": control[ControlWord.REALTIME_NS],
            "heartbeat at T0": control[ControlWord.HEARTBEATS],
            "address map": places.memory.rule,
        }
    )
    return replace(tally.result(), t0=T0(tuple(steps), control[ControlWord.MONOTONIC_NS]))


def _live_control(scan: AgentScan) -> SpecialPage | None:
    """Return the live agent's control page: of the plausible ones the latest; older agents leave theirs."""

    def rank(page: SpecialPage) -> tuple[bool, int, int]:
        plausible = (
            page[ControlWord.VERSION] in READABLE_VERSIONS and page[ControlWord.PAGE_SIZE] == PAGE_BYTES
        )
        return plausible, page[ControlWord.REALTIME_NS], page[ControlWord.HEARTBEATS]

    return max(scan.controls, key=rank, default=None)


def _without_control(reader: PageReader, scan: AgentScan, tally: Tally, agent_ran: bool) -> CheckResult:
    if not scan.threads and not scan.directories and not len(scan.data.page):
        return tally.skip(NO_AGENT)
    waiting = waiting_agent(reader, scan)
    if waiting is not None:
        block = reader.index.blocks[waiting.block]
        return tally.skip(
            f"The guest was booted anew: its agent, at 0x{waiting.page * block.page_size:x} of RAMBlock "
            f"'{block.idstr}', waits for its first command, and the {len(scan.data.page)} agent pages in RAM "
            "were written before that boot."
        )
    pages = len(scan.data.page)
    tally.facts["agent pages without a control page"] = pages
    if not agent_ran and may_be_remains(reader, scan):
        return tally.skip(REMAINS.format(pages=pages))
    sentence = f"There are {pages} agent pages in RAM, but no control page."
    tally.add(Violation(NAME, Code.WRITE_ORDER_NO_CONTROL_PAGE, sentence))
    return tally.result()


def _judge_control(reader: PageReader, control: SpecialPage, tally: Tally) -> bool:
    pages = sum(block.pages for block in reader.index.blocks)
    problems = []
    if control[ControlWord.VERSION] not in READABLE_VERSIONS:
        problems.append(f"format version {control[ControlWord.VERSION]}")
    if control[ControlWord.PATTERN] >= len(ap.PATTERNS):
        problems.append(f"pattern {control[ControlWord.PATTERN]}")
    if not 1 <= control[ControlWord.THREADS] <= _MOST_THREADS:
        problems.append(f"{control[ControlWord.THREADS]} threads")
    if control[ControlWord.PAGE_SIZE] != PAGE_BYTES:
        problems.append(f"page size {control[ControlWord.PAGE_SIZE]}")
    if control[ControlWord.DATA_PAGES] > pages:
        problems.append(f"{control[ControlWord.DATA_PAGES]} data pages")
    if problems:
        sentence = f"The agent's control page cannot be: it has {', '.join(problems)}."
        tally.add(page_violation(reader, control, Code.WRITE_ORDER_BAD_CONTROL_PAGE, sentence))
    return not problems


@dataclass(frozen=True)
class _Votes:
    """How many intact pages fit a step count.

    Attributes:
        best: the step count that most pages fit.
        best_share: the share of pages that fit it.
        counter_share: the share of pages that fit the counter in the thread page.
    """

    best: int
    best_share: float
    counter_share: float


class _ThreadJudge:
    """Judges the pages of one thread.

    Attributes:
        steps: page writes that the thread had completed at T0, 0 until `run` has found it.
    """

    def __init__(
        self, reader: PageReader, control: SpecialPage, thread: int, places: AgentPlaces, tally: Tally
    ) -> None:
        self._reader = reader
        self._nonce = control[PageWord.NONCE]
        self._thread = thread
        self._places = places
        self._tally = tally
        self._page = places.thread_pages.get(thread)
        listed = places.directory_counts.get(thread, 0)
        count = self._page[ThreadWord.PAGES] if self._page is not None else listed
        pattern, seed = control[ControlWord.PATTERN], control[ControlWord.SEED]
        self._schedule = ap.Schedule(pattern, count, seed, thread)
        self.steps = 0

    def run(self, most: int) -> int:
        """Judge the pages; return their number, which can be `most` at most."""
        if not (2 if self._schedule.pattern == ap.Pattern.HOT else 1) <= self._schedule.pages <= most:
            self._report_thread(
                Code.WRITE_ORDER_BAD_THREAD_PAGE, f"Agent thread {self._thread} has no usable thread page."
            )
            return 0
        found = self._found()
        steps = self._steps(found)
        if steps is None:
            return 0
        self.steps = steps
        self._tally.facts[f"steps of thread {self._thread}"] = steps
        self._judge(found, steps)
        return self._schedule.pages

    def _found(self) -> DataPages:
        """Return what is at the place of each index, by index; block is -1 for an unknown place."""
        return self._places.pages_of(self._thread, self._schedule.pages)

    def _mine(self, found: DataPages) -> npt.NDArray[np.bool_]:
        index = np.arange(self._schedule.pages, dtype=np.uint64)
        mine: npt.NDArray[np.bool_] = (
            found.intact
            & (found.header[:, PageWord.NONCE] == np.uint64(self._nonce))
            & (found.header[:, DataWord.THREAD] == np.uint64(self._thread))
            & (found.header[:, DataWord.INDEX] == index)
        )
        return mine

    def _steps(self, found: DataPages) -> int | None:
        """Return the steps done at T0: the counter, unless most pages agree on another count."""
        votes = self._votes(found)
        if self._page is None:
            self._report_thread(
                Code.WRITE_ORDER_NO_THREAD_PAGE,
                f"The thread page of agent thread {self._thread} is not in RAM.",
            )
            return votes.best if votes.best_share >= _OVERRULE_SHARE else None
        counter = self._page[ThreadWord.STEPS]
        # If only a few more pages fit another count, those that do not fit the counter are violations.
        if votes.best_share < _OVERRULE_SHARE or votes.counter_share >= votes.best_share / 2:
            return counter
        self._report_thread(
            Code.WRITE_ORDER_WRONG_COUNTER,
            f"The counter of agent thread {self._thread} says {counter} steps, but "
            f"{votes.best_share:.0%} of its pages are those of {votes.best} steps.",
            str(votes.best),
            str(counter),
        )
        return votes.best

    def _votes(self, found: DataPages) -> _Votes:
        """Count the pages that fit each step count: one written at step s fits (s, its next write]."""
        mine = self._mine(found)
        step, index = found.header[mine, DataWord.STEP], found.header[mine, DataWord.INDEX]
        if not len(step):
            return _Votes(0, 0.0, 1.0)
        first = np.sort(step + np.uint64(1))
        last = np.sort(self._schedule.next_write(index, step))
        fitting = np.searchsorted(first, first, "right") - np.searchsorted(last, first, "left")
        best = int(first[int(fitting.argmax())])
        counter = np.uint64(self._page[ThreadWord.STEPS] if self._page is not None else 0)
        at_counter = int((first <= counter).sum()) - int((last < counter).sum())
        pages = self._schedule.pages
        return _Votes(best, int(fitting.max()) / pages, at_counter / pages)

    def _judge(self, found: DataPages, steps: int) -> None:
        generation, step = self._schedule.state(steps)
        blank = self._schedule.is_zero(generation)
        good = self._mine(found) & ~blank
        good &= found.header[:, DataWord.GENERATION] == generation
        good &= found.header[:, DataWord.STEP] == step
        good |= blank & self._places.is_zero_page(found)
        # A page of zeros may also be saved as data.
        for number in np.flatnonzero(~good & blank & (found.block >= 0)).tolist():
            good[number] = self._raw(found, number) == _BLANK
        bad = np.flatnonzero(~good)
        for at, number in enumerate(bad.tolist()):
            if self._tally.full:
                self._count(found, bad[at:], generation, step, steps)
                break
            self._judge_page(found, number, (int(generation[number]), int(step[number])), steps)

    def _count(self, found: DataPages, bad: Numbers, generation: Words, step: Words, steps: int) -> None:
        """Count the bad pages that get no violation of their own."""
        writing, _ = self._schedule.locate(np.array([steps], np.uint64))
        # Only the page that is being written at T0 can be right although it differs.
        for number in bad[bad == int(writing[0])].tolist():
            self._judge_page(found, number, (int(generation[number]), int(step[number])), steps)
        bad = bad[bad != int(writing[0])]
        for number, block in enumerate(self._reader.index.blocks):
            pages = found.page[bad[found.block[bad] == number]]
            self._tally.count(block.idstr, pages * block.page_size)
        self._tally.total += int(np.count_nonzero(found.block[bad] < 0))

    def _raw(self, found: DataPages, index: int) -> bytes | None:
        """Return the content of the page at the place of an index that has one."""
        return self._reader.page(self._reader.index.blocks[int(found.block[index])], int(found.page[index]))

    def _judge_page(self, found: DataPages, index: int, expected: tuple[int, int], steps: int) -> None:
        block, page = int(found.block[index]), int(found.page[index])
        if block < 0:
            self._add_unknown(index, expected[0])
            return
        raw = self._raw(found, index)
        diagnosis = diagnose(self._schedule, self._nonce, index, expected, steps, raw)
        if diagnosis is not None:
            self._report_page(block, page, index, expected[0], diagnosis)

    def _report_page(self, block: int, page: int, index: int, generation: int, found: Diagnosis) -> None:
        info = self._reader.index.blocks[block]
        offset = page * info.page_size
        elsewhere = self._places.elsewhere(self._thread, index, block, page)
        self._tally.add(
            Violation(
                NAME,
                found.code,
                f"Page {index} of agent thread {self._thread}, at 0x{offset:x} of RAMBlock "
                f"'{info.idstr}', is {found.sentence}.{elsewhere}",
                info.idstr,
                offset,
                self._places.memory.address(block, offset),
                abs(int(info.page_source[page])) or None,
                found.expected,
                found.found,
                self._thread,
                index,
                generation,
                found.hexdump,
                found.fields,
            )
        )

    def _add_unknown(self, index: int, generation: int) -> None:
        self._tally.add(
            Violation(
                NAME,
                Code.WRITE_ORDER_NOT_FOUND,
                f"Page {index} of agent thread {self._thread} cannot be found: no directory lists it.",
                thread=self._thread,
                index=index,
                generation=generation,
            )
        )

    def _report_thread(self, code: Code, sentence: str, expected: str = "", found: str = "") -> None:
        page = self._page
        if page is None:
            self._tally.add(Violation(NAME, code, sentence, thread=self._thread))
            return
        memory, thread = self._places.memory, self._thread
        self._tally.add(page_violation(self._reader, page, code, sentence, memory, thread, expected, found))
