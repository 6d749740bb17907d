"""Contract: pages that describe the agent hold only what it writes, are of one moment, and are all there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guest_images.agent.format import (
    DIRECTORY_ENTRIES,
    FORMAT_VERSION,
    MAILBOX_MAGIC,
    AgentState,
    ControlWord,
    DirectoryWord,
    PageWord,
    ThreadWord,
    WriterState,
)
from harness.codes import Code
from tests_unit.support.synthetic_stream import NONCE, PAGE, Guest, Writer
from validators.judge import check_file
from validators.oracles.o2_write_order import meta_pages
from validators.oracles.o2_write_order.meta_pages import MetaPages
from validators.oracles.o2_write_order.scan import AgentScan, DataPages, SpecialPage
from validators.verdict import Violation
from validators.vmstate.memory_map import MemoryMap

_CONTROL, _THREAD = 3, 5
_NOW = 123_000_000_000


def _violations(tmp_path: Path, page: int, words: dict[int, int]) -> tuple[Violation, ...]:
    guest = Guest()
    for word, value in words.items():
        guest.ram[page, word] = value
    path = tmp_path / "file"
    path.write_bytes(Writer(guest).stream())
    result = check_file(path).check("write-order")
    assert result is not None
    return result.violations


def _control(**words: int) -> SpecialPage:
    return _special({ControlWord[name]: value for name, value in words.items()})


def _thread(**words: int) -> SpecialPage:
    return _special({ThreadWord[name]: value for name, value in words.items()})


def _special(words: dict[int, int], nonce: int = NONCE) -> SpecialPage:
    page = np.zeros(512, np.uint64)
    for word, value in {PageWord.NONCE: nonce, **words}.items():
        page[word] = value
    return SpecialPage(0, 0, page)


def _scan(threads: tuple[SpecialPage, ...] = (), directories: tuple[SpecialPage, ...] = ()) -> AgentScan:
    none = np.zeros(0, np.int64)
    data = DataPages(none, none, np.zeros((0, 6), np.uint64), np.zeros(0, np.bool_))
    return AgentScan(data, (), threads, directories)


def _wrong_thread(page: SpecialPage, version: int = FORMAT_VERSION) -> list[str]:
    return meta_pages._impossible_thread(_special({ControlWord.VERSION: version}), page)


_MAP = MemoryMap("made", ())
_MAILBOX_WORDS = [*range(16, 24), *range(32, 44)]


@pytest.mark.parametrize("word", [24, 31, 44, 45, 511])
@pytest.mark.parametrize("bare", [False, True])
def test_word_that_no_agent_writes_in_its_control_page(word: int, bare: bool) -> None:
    """Neither one with a mailbox does."""
    words = {word: 5, ControlWord.MAILBOX: MAILBOX_MAGIC if bare else 0}
    assert meta_pages._impossible_control(_special(words)) == [
        f"holds 0x5 in word {word}, which the agent never writes"
    ]


@pytest.mark.parametrize("word", _MAILBOX_WORDS)
def test_mailbox_is_that_of_an_agent_without_an_operating_system(word: int) -> None:
    """Its words are zero in the control page of any other agent."""
    value = MAILBOX_MAGIC if word == ControlWord.MAILBOX else 1
    bare = {word: value, ControlWord.MAILBOX: MAILBOX_MAGIC}
    assert meta_pages._impossible_control(_special(bare)) == []
    assert len(meta_pages._impossible_control(_special({word: 1}))) == 1


@pytest.mark.parametrize(
    ("state", "problems"),
    [(0, 0), (1, 0), (AgentState.PAUSED, 0), (AgentState.ENDING, 0), (4, 1), (1 << 63, 1)],
)
def test_states_of_an_agent(state: int, problems: int) -> None:
    """Only those that it has."""
    assert len(meta_pages._impossible_control(_control(STATE=state))) == problems


@pytest.mark.parametrize("word", [15, 48, 63, 96, 127, 408, 511])
def test_word_that_no_writer_writes_in_its_thread_page(word: int) -> None:
    """Those around the long gaps and the histograms as well."""
    assert _wrong_thread(_special({word: 1 << 63})) == [
        f"holds 0x8000000000000000 in word {word}, which the agent never writes"
    ]


@pytest.mark.parametrize("word", [ControlWord.COUNTER, ControlWord.NS_PER_TICK])
def test_control_page_of_version_1_has_no_counter(word: int) -> None:
    """That of version 2 has."""
    assert len(meta_pages._impossible_control(_special({ControlWord.VERSION: 1, word: 5}))) == 1
    assert meta_pages._impossible_control(_special({ControlWord.VERSION: 2, word: 5})) == []


def test_agent_of_version_1_has_no_end() -> None:
    """It wiped its control page alone, and said nothing before."""
    for version, problems in ((1, 1), (2, 0)):
        page = _special({ControlWord.VERSION: version, ControlWord.STATE: AgentState.ENDING})
        assert len(meta_pages._impossible_control(page)) == problems


def test_thread_page_of_version_1_has_no_counter() -> None:
    """That of version 2 has."""
    page = _special({ThreadWord.COUNTER: 5})
    assert len(_wrong_thread(page, 1)) == 1
    assert _wrong_thread(page, 2) == []


@pytest.mark.parametrize(
    ("version", "own", "problems"), [(1, 5, 1), (2, 5, 0), (2, 4, 1), (2, 6, 1), (2, 0, 1)]
)
def test_length_of_a_tick(version: int, own: int, problems: int) -> None:
    """All pages of an agent have the same, and those of version 1 none."""
    control = _special({ControlWord.VERSION: version, ControlWord.NS_PER_TICK: 5})
    found = meta_pages._impossible_thread(control, _special({ThreadWord.NS_PER_TICK: own}))
    assert len(found) == problems


def test_words_that_a_writer_writes_in_its_thread_page() -> None:
    """Sixteen long gaps with time and length, and all buckets of both histograms."""
    words = dict.fromkeys([*range(2, 7), 8, *range(10, 13), *range(16, 48)], 7)
    words |= dict.fromkeys(range(64, 96), 35) | dict.fromkeys(range(128, 408), 4)
    page = _special({**words, ThreadWord.STATE: WriterState.PARKED, ThreadWord.WRITES_TIMED: 1120})
    assert _wrong_thread(page) == []


@pytest.mark.parametrize(
    ("state", "steps", "problems"),
    [
        (WriterState.NOT_STARTED, 0, 0),
        (WriterState.NOT_STARTED, 1, 1),
        (WriterState.WRITING, 0, 0),
        (WriterState.WRITING, 1, 0),
        (WriterState.PARKED, 1, 0),
        (WriterState.PARKED + 1, 0, 1),
        (1 << 63, 1, 1),
    ],
)
def test_states_of_a_writer(state: int, steps: int, problems: int) -> None:
    """One that has not started has made no step."""
    assert len(_wrong_thread(_thread(STATE=state, STEPS=steps))) == problems


@pytest.mark.parametrize(("first", "errors", "problems"), [(0, 0, 0), (7, 0, 1), (7, 1, 0), (0, 1, 0)])
def test_first_wrong_page_of_a_writer_without_any(first: int, errors: int, problems: int) -> None:
    """A page that is named is counted too; the first may be page 0."""
    found = _wrong_thread(_thread(FIRST_ERROR=first, ERRORS=errors))
    assert len(found) == problems


@pytest.mark.parametrize("histogram", [ThreadWord.HISTOGRAM, ThreadWord.FINE_HISTOGRAM])
@pytest.mark.parametrize(("ahead", "problems"), [(-1, 1), (0, 0), (1, 0), (2, 1)])
@pytest.mark.parametrize("bucket", [0, 31])
def test_histograms_count_the_writes_that_were_timed(
    histogram: int, ahead: int, problems: int, bucket: int
) -> None:
    """At T0 a histogram may be ahead by one write, never behind."""
    words: dict[int, int] = {ThreadWord.HISTOGRAM: 100, ThreadWord.FINE_HISTOGRAM: 100}
    words[ThreadWord.WRITES_TIMED] = 107
    words[ThreadWord.HISTOGRAM + bucket] = words.get(ThreadWord.HISTOGRAM + bucket, 0) + 7
    words[ThreadWord.FINE_HISTOGRAM + bucket] = words.get(ThreadWord.FINE_HISTOGRAM + bucket, 0) + 7
    words[histogram] += ahead
    found = _wrong_thread(_special(words))
    name = "histogram" if histogram == ThreadWord.HISTOGRAM else "fine histogram"
    assert found == (
        [f"has {107 + ahead} writes in its {name}, and says that 107 were timed"] if problems else []
    )


@pytest.mark.parametrize("state", AgentState)
@pytest.mark.parametrize("writer", WriterState)
def test_states_of_agent_and_writer(state: AgentState, writer: WriterState) -> None:
    """A writer writes only while the agent runs; it may be parked or not started in any state."""
    found = meta_pages._other_moment(_control(STATE=state), _thread(STATE=writer))
    wrong = writer is WriterState.WRITING and state is not AgentState.RUNNING
    assert found.startswith("was writing while by the control page the agent was ") == wrong
    assert bool(found) == wrong


@pytest.mark.parametrize(
    ("own", "gap", "writer", "found"),
    [
        (0, 0, WriterState.WRITING, ""),
        (_NOW, 0, WriterState.WRITING, ""),
        (_NOW + 1, 0, WriterState.WRITING, "wrote 0.000 ms after"),
        (_NOW + 1_500_000, 0, WriterState.WRITING, "wrote 1.500 ms after"),
        (_NOW + 1, 0, WriterState.PARKED, "wrote 0.000 ms after"),
        (_NOW - 1_000_000_000, 0, WriterState.WRITING, ""),
        (_NOW - 1_000_000_001, 0, WriterState.WRITING, "wrote last 1.000 s before"),
        (_NOW - 2_500_000_000, 0, WriterState.WRITING, "wrote last 2.500 s before"),
        (_NOW - 2_500_000_000, 0, WriterState.PARKED, ""),
        (_NOW - 1_000_000_020, 10, WriterState.WRITING, ""),
        (_NOW - 1_000_000_021, 10, WriterState.WRITING, "wrote last 1.000 s before"),
        (1, 0, WriterState.WRITING, "wrote last 123.000 s before"),
    ],
)
def test_clocks_of_agent_and_writer(own: int, gap: int, writer: WriterState, found: str) -> None:
    """A writer's clock is never ahead, and behind by a second and two of its gaps at most while it writes."""
    control = _control(STATE=AgentState.RUNNING, MONOTONIC_NS=_NOW)
    told = meta_pages._other_moment(control, _thread(STATE=writer, MONOTONIC_NS=own, LONGEST_GAP_NS=gap))
    assert told.startswith(found) and bool(told) == bool(found)


@pytest.mark.parametrize(
    ("numbers", "found"),
    [((), ""), ((0, 1), ""), ((2,), "thread 2 is in RAM"), ((9, 1, 4), "thread 4 is in RAM")],
)
def test_thread_page_beyond_the_threads(numbers: tuple[int, ...], found: str) -> None:
    """The control page counts two threads; one of an earlier agent is none of this."""
    pages = [_thread(NUMBER=number) for number in numbers]
    old = _special({ThreadWord.NUMBER: 3}, NONCE + 1)
    meta = MetaPages(_control(THREADS=2, DATA_PAGES=10), {}, _MAP)
    told = meta_pages._lost_threads(_scan((*pages, old)), meta)
    assert told.endswith(f"the thread page of {found}.") if found else not told


@pytest.mark.parametrize(
    ("pages", "found"),
    [
        ({0: 6, 1: 4}, ""),
        ({0: 6, 1: 5}, "10 data pages by its control page, 11 by its thread pages."),
        ({0: 6, 1: 3}, "10 data pages by its control page, 9 by its thread pages."),
        ({0: 10, 1: 10}, "10 data pages by its control page, 20 by its thread pages."),
        ({0: 11, 1: 4}, ""),
        ({0: 6}, ""),
    ],
)
def test_pages_of_all_threads(pages: dict[int, int], found: str) -> None:
    """They are those of the control page; a thread page that is lost or cannot be is told elsewhere."""
    threads = {number: _thread(NUMBER=number, PAGES=count) for number, count in pages.items()}
    meta = MetaPages(_control(THREADS=2, DATA_PAGES=10), threads, _MAP)
    assert meta_pages._lost_threads(_scan(), meta) == (f"The agent has {found}" if found else "")


def _lost(pages: int, listed: dict[tuple[int, int], int], total: int = 1 << 40) -> list[tuple[int, str]]:
    directories = tuple(
        _special({DirectoryWord.THREAD: thread, DirectoryWord.FIRST_INDEX: first, DirectoryWord.COUNT: count})
        for (thread, first), count in listed.items()
    )
    meta = MetaPages(_control(THREADS=2, DATA_PAGES=total), {1: _thread(NUMBER=1, PAGES=pages)}, _MAP)
    return list(meta_pages._lost_directories(_scan((), directories), meta))


@pytest.mark.parametrize(
    ("pages", "listed", "lost"),
    [
        (1, {(1, 0): 1}, []),
        (500, {(1, 0): 500}, []),
        (501, {(1, 0): 500, (1, 500): 1}, []),
        (1200, {(1, 0): 500, (1, 500): 500, (1, 1000): 200}, []),
        (500, {}, ["0 to 499"]),
        (60, {(1, 0): 59}, ["0 to 59"]),
        (60, {(1, 0): 61}, ["0 to 59"]),
        (60, {(0, 0): 60}, ["0 to 59"]),
        (60, {(1, 1): 60}, ["0 to 59"]),
        (501, {(1, 0): 500}, ["500 to 500"]),
        (1200, {(1, 500): 500, (1, 1000): 200}, ["0 to 499"]),
        (1200, {(1, 0): 500, (1, 1000): 200}, ["500 to 999"]),
        (1200, {(1, 0): 500, (1, 500): 500, (1, 1000): 500}, ["1000 to 1199"]),
    ],
)
def test_run_of_pages_without_its_directory_page(
    pages: int, listed: dict[tuple[int, int], int], lost: list[str]
) -> None:
    """Each 500 pages of a thread have one, the last lists the rest; the pages of a lost one are told."""
    assert _lost(pages, listed) == [
        (1, f"The directory page of pages {which} of agent thread 1 is not in RAM.") for which in lost
    ]


@pytest.mark.parametrize(("runs", "told"), [(2, 2), (8, 8), (9, 8), (40, 8)])
def test_many_lost_directory_pages(runs: int, told: int) -> None:
    """The first eight are named, each with the number of all."""
    found = _lost(runs * DIRECTORY_ENTRIES, {})
    assert len(found) == told
    assert all(
        sentence.endswith(f" Of this thread {runs} directory pages are lost.") for _, sentence in found
    )


@pytest.mark.parametrize(("total", "lost"), [(60, 1), (59, 0)])
def test_thread_with_more_pages_than_the_agent(total: int, lost: int) -> None:
    """Its thread page cannot be, and is told elsewhere: its directory pages are not asked for."""
    assert len(_lost(60, {}, total)) == lost


def test_thread_page_that_cannot_be_hides_no_lost_directory_page() -> None:
    """That of the next thread is told."""
    threads = {0: _thread(NUMBER=0, PAGES=61), 1: _thread(NUMBER=1, PAGES=60)}
    meta = MetaPages(_control(THREADS=2, DATA_PAGES=60), threads, _MAP)
    assert [thread for thread, _ in meta_pages._lost_directories(_scan(), meta)] == [1]


def test_directory_page_of_an_earlier_agent() -> None:
    """It does not stand for one that is lost."""
    old = _special({DirectoryWord.THREAD: 0, DirectoryWord.COUNT: 60}, NONCE + 1)
    meta = MetaPages(_control(THREADS=1, DATA_PAGES=60), {0: _thread(PAGES=60)}, _MAP)
    assert len(list(meta_pages._lost_directories(_scan((), (old,)), meta))) == 1


def test_wrong_pages_that_a_writer_has_found(tmp_path: Path) -> None:
    """How many, and which was the first, with the place of the thread page and its address."""
    (found,) = _violations(tmp_path, _THREAD, {ThreadWord.ERRORS: 3, ThreadWord.FIRST_ERROR: 7})
    assert found.code is Code.WRITE_ORDER_AGENT_ERRORS
    assert found.sentence == (
        "Before T0 agent thread 1 had found 3 wrong pages, the first of them page 7, when it came to "
        "overwrite them."
    )
    place = _THREAD * PAGE
    assert (found.block, found.offset, found.gpa, found.thread) == ("pc.ram", place, place, 1)


@pytest.mark.parametrize(
    ("page", "word", "value", "thread", "sentence"),
    [
        (_CONTROL, ControlWord.STATE, 4, None, "The agent's control page has the unknown state 4."),
        (_THREAD, ThreadWord.STATE, 3, 1, "The thread page of agent thread 1 has the unknown state 3."),
        (_THREAD, ThreadWord.MONOTONIC_NS, _NOW + 1, 1, "Agent thread 1 wrote 0.000 ms after"),
        (_CONTROL, ControlWord.DATA_PAGES, 99, None, "The agent has 99 data pages by its control page"),
    ],
)
def test_violation_has_the_place_of_its_page(
    tmp_path: Path, page: int, word: int, value: int, thread: int | None, sentence: str
) -> None:
    """In RAM, by guest-physical address, and in the file."""
    (found,) = _violations(tmp_path, page, {word: value})
    assert found.sentence.startswith(sentence)
    assert (found.check, found.block, found.thread) == ("write-order", "pc.ram", thread)
    assert (found.offset, found.gpa) == (page * PAGE, page * PAGE)
    content = (tmp_path / "file").read_bytes()
    assert found.file_offset is not None
    at = found.file_offset + 8 * word
    assert int.from_bytes(content[at : at + 8], "little") == value
