"""Contract: T0 is found from counter and pages of each thread, and each page that is not of T0 is counted."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from guest_images.agent import pages as ap
from guest_images.agent.format import ControlWord, DirectoryWord, ThreadWord
from harness.codes import Code
from harness.status import Status
from tests_unit.support.synthetic_stream import NONCE, PAGE, Guest, Writer
from validators import verdict
from validators.judge import check_file
from validators.oracles.o2_write_order import write_order
from validators.oracles.o2_write_order.scan import AgentScan, DataPages, SpecialPage
from validators.verdict import T0, CheckResult, Tally
from validators.vmstate.pages import PageReader

_CONTROL, _DIRECTORY = 3, 10


def _judge(tmp_path: Path, guest: Guest, writer: type[Writer] = Writer) -> CheckResult:
    path = tmp_path / "file"
    path.write_bytes(writer(guest).stream())
    result = check_file(path).check("write-order")
    assert result is not None
    return result


def _page(thread: int, index: int, step: int, generation: int) -> ap.Words:
    one = [np.array([value], np.uint64) for value in (index, generation, step)]
    page: ap.Words = ap.data_pages(NONCE, thread, *one)[0]
    return page


def _corrupt(guest: Guest, count: int, thread: int = 0, first: int = 0) -> None:
    for index in range(first, first + count):
        guest.ram[guest.places[thread, index], 300] ^= np.uint64(1)


def _without_control(**found: int) -> CheckResult:
    pages = {name: (SpecialPage(0, 0, np.zeros(512, np.uint64)),) * count for name, count in found.items()}
    none = np.zeros(found.get("data", 0), np.int64)
    data = DataPages(none, none, np.zeros((len(none), 6), np.uint64), none.astype(np.bool_))
    scan = AgentScan(data, (), pages.get("threads", ()), pages.get("directories", ()))
    reader = cast(PageReader, SimpleNamespace(index=SimpleNamespace(blocks=())))
    return write_order._without_control(reader, scan, Tally("write-order", "It demands."), agent_ran=True)


@pytest.mark.parametrize("left", [{"data": 3}, {"threads": 1}, {"directories": 1}])
def test_any_page_of_an_agent_needs_a_control_page(left: dict[str, int]) -> None:
    """Data pages are counted; thread and directory pages alone tell of an agent too."""
    result = _without_control(**left)
    assert (result.status, result.total) == (Status.FAIL, 1)
    assert result.violations[0].sentence == (
        f"There are {left.get('data', 0)} agent pages in RAM, but no control page."
    )
    assert result.facts == {"agent pages without a control page": left.get("data", 0)}


def test_guest_without_any_page_of_an_agent() -> None:
    """It is skipped."""
    assert _without_control().status is Status.SKIP


@pytest.mark.parametrize(
    ("words", "live"),
    [
        ({ControlWord.REALTIME_NS: 1}, False),
        ({ControlWord.REALTIME_NS: -1}, True),
        ({ControlWord.HEARTBEATS: 1}, False),
        ({ControlWord.HEARTBEATS: -1}, True),
        ({ControlWord.REALTIME_NS: -1, ControlWord.HEARTBEATS: 1}, True),
        ({ControlWord.REALTIME_NS: 1, ControlWord.VERSION: 1}, True),
        ({ControlWord.REALTIME_NS: 1, ControlWord.PAGE_SIZE: 1}, True),
    ],
)
def test_live_control_page(words: dict[int, int], live: bool) -> None:
    """Of the plausible ones the latest by wall clock and heartbeats; the order in RAM does not count."""
    guest = Guest()
    ours = SpecialPage(0, 3, guest.ram[_CONTROL])
    other = SpecialPage(0, 4, guest.ram[_CONTROL].copy())
    for word, change in words.items():
        other.words[word] = int(other.words[word]) + change
    none = np.zeros(0, np.int64)
    data = DataPages(none, none, np.zeros((0, 6), np.uint64), none.astype(np.bool_))
    for controls in ((ours, other), (other, ours)):
        found = write_order._live_control(AgentScan(data, controls, (), ()))
        assert found is (ours if live else other)


@pytest.mark.parametrize(
    ("word", "value", "problem"),
    [
        (ControlWord.VERSION, 1, ""),
        (ControlWord.VERSION, 0, "format version 0"),
        (ControlWord.VERSION, 2, ""),
        (ControlWord.VERSION, 3, "format version 3"),
        (ControlWord.PATTERN, 4, ""),
        (ControlWord.PATTERN, 5, "pattern 5"),
        (ControlWord.THREADS, 0, "0 threads"),
        (ControlWord.THREADS, 1, ""),
        (ControlWord.THREADS, 4096, ""),
        (ControlWord.THREADS, 4097, "4097 threads"),
        (ControlWord.PAGE_SIZE, 4095, "page size 4095"),
        (ControlWord.DATA_PAGES, 256, ""),
        (ControlWord.DATA_PAGES, 257, "257 data pages"),
    ],
)
def test_control_page_that_cannot_be(word: int, value: int, problem: str) -> None:
    """More pages than RAM, more threads than a guest has vCPUs, and no other format are judged."""
    guest = Guest()
    guest.ram[_CONTROL, word] = value
    block = SimpleNamespace(pages=256, page_size=PAGE, idstr="pc.ram", page_source=np.full(256, 777))
    reader = cast(PageReader, SimpleNamespace(index=SimpleNamespace(blocks=(block,))))
    tally = Tally("write-order", "It demands.")
    usable = write_order._judge_control(reader, SpecialPage(0, 3, guest.ram[_CONTROL]), tally)
    assert usable == (not problem)
    assert [(found.sentence, found.offset, found.file_offset) for found in tally.violations] == (
        [(f"The agent's control page cannot be: it has {problem}.", 3 * PAGE, 777)] if problem else []
    )


@pytest.mark.parametrize(
    ("pattern", "pages", "usable"),
    [
        (ap.Pattern.HOT, 1, False),
        (ap.Pattern.HOT, 2, True),
        (ap.Pattern.SEQUENTIAL, 1, True),
        (ap.Pattern.ZERO, 1, True),
    ],
)
def test_fewest_pages_of_a_thread(tmp_path: Path, pattern: int, pages: int, usable: bool) -> None:
    """The hot pattern needs a cold page beside its hot one."""
    guest = Guest(pattern=ap.Pattern.SEQUENTIAL if not usable else pattern, counts=(pages, 40), steps=(9, 77))
    guest.ram[_CONTROL, ControlWord.PATTERN] = pattern
    sentences = [found.sentence for found in _judge(tmp_path, guest).violations]
    assert ("Agent thread 0 has no usable thread page." in sentences) == (not usable)
    assert bool(sentences) == (not usable)


@pytest.mark.parametrize(
    ("first", "second", "unusable"),
    [(258, 0, {1}), (257, 1, set()), (259, 40, {0}), (218, 40, set()), (219, 40, {1}), (218, 41, {1})],
)
def test_threads_have_no_more_pages_than_the_file(
    tmp_path: Path, first: int, second: int, unusable: set[int]
) -> None:
    """All together: 258 pages, so that hostile counts cost little."""
    guest = Guest()
    guest.ram[4, ThreadWord.PAGES], guest.ram[5, ThreadWord.PAGES] = first, second
    found = {
        violation.thread
        for violation in _judge(tmp_path, guest).violations
        if violation.sentence.endswith("has no usable thread page.")
    }
    assert found == unusable


def test_thread_of_which_nothing_tells_the_pages(tmp_path: Path) -> None:
    """Neither thread page nor directory page: it is named, and none of its pages is judged."""
    guest = Guest()
    guest.ram[[4, 10]] = 0
    result = _judge(tmp_path, guest)
    assert [(found.code, found.thread, found.sentence) for found in result.violations] == [
        (Code.WRITE_ORDER_BAD_THREAD_PAGE, 0, "Agent thread 0 has no usable thread page.")
    ]
    assert (result.t0, result.facts["pages verified"]) == (T0((0, 77), 123_000_000_000), 40)


@pytest.mark.parametrize(("corrupt", "steps"), [(0, 150), (29, 150), (30, 150), (31, 0), (100, 0)])
def test_thread_page_that_is_lost(tmp_path: Path, corrupt: int, steps: int) -> None:
    """If seven tenths of the pages agree, T0 is known from them; else this thread's pages are not judged."""
    guest = Guest(counts=(100,), steps=(150,), torn=(0,))
    guest.ram[4] = 0
    _corrupt(guest, corrupt)
    result = _judge(tmp_path, guest)
    codes = [found.code for found in result.violations]
    assert codes[0] is Code.WRITE_ORDER_NO_THREAD_PAGE
    assert result.violations[0].thread == 0
    assert codes[1:] == ([Code.WRITE_ORDER_CORRUPT] * corrupt if steps else [])
    assert result.t0 == T0((steps,), 123_000_000_000)
    assert result.facts["pages verified"] == (100 if steps else 0)


@pytest.mark.parametrize(
    ("change", "corrupt", "overruled"),
    [
        (1, 0, False),
        (50, 0, False),
        (51, 0, True),
        (-50, 0, False),
        (-51, 0, True),
        (60, 30, True),
        (60, 31, False),
    ],
)
def test_counter_is_overruled_by_most_pages(
    tmp_path: Path, change: int, corrupt: int, overruled: bool
) -> None:
    """If seven tenths of all pages are of another count, and less than half as many are of the counter."""
    guest = Guest(counts=(100,), steps=(150,), torn=(0,))
    guest.ram[4, ThreadWord.STEPS] = 150 + change
    _corrupt(guest, corrupt, first=15)
    result = _judge(tmp_path, guest)
    wrong = [found for found in result.violations if found.code is Code.WRITE_ORDER_WRONG_COUNTER]
    assert bool(wrong) == overruled
    assert result.t0 == T0((150 if overruled else 150 + change,), 123_000_000_000)
    if overruled:
        (found,) = wrong
        assert (found.expected, found.found, found.offset) == ("150", str(150 + change), 4 * PAGE)
        assert found.sentence == (
            f"The counter of agent thread 0 says {150 + change} steps, but {100 - corrupt}% of its pages are "
            "those of 150 steps."
        )
        assert result.total == 1 + corrupt


@pytest.mark.parametrize("pattern", ap.Pattern)
@pytest.mark.parametrize("steps", [0, 1, 39, 40, 41, 400])
def test_thread_at_any_step(tmp_path: Path, pattern: int, steps: int) -> None:
    """Right pages pass from the first step on; so they do without the counter once all have been written."""
    result = _judge(tmp_path, Guest(pattern=pattern, counts=(40,), steps=(steps,), torn=(0,)))
    assert (result.status, result.t0) == (Status.PASS, T0((steps,), 123_000_000_000))


def test_pages_of_no_moment_leave_the_counter(tmp_path: Path) -> None:
    """Where no page is intact, all are judged by the counter."""
    guest = Guest(counts=(40,), steps=(77,), torn=(0,))
    _corrupt(guest, 40)
    result = _judge(tmp_path, guest)
    assert {found.code for found in result.violations} == {Code.WRITE_ORDER_CORRUPT}
    assert (result.total, result.t0) == (40, T0((77,), 123_000_000_000))


@dataclass
class _ZerosAsData(Writer):
    """Saves no page as a zero page."""

    @staticmethod
    def _record(name: str, page: int, data: bytes, again: bool) -> bytes:
        head = struct.pack(">Q", page * PAGE | 0x08 | (0x20 if again else 0))
        return head + (b"" if again else bytes([len(name)]) + name.encode()) + data


@pytest.mark.parametrize("writer", [Writer, _ZerosAsData])
def test_page_of_zeros_may_be_saved_as_data(tmp_path: Path, writer: type[Writer]) -> None:
    """A page that was never written is zeros, however the stream has it; anything else there is wrong."""
    guest = Guest(counts=(60, 40), steps=(30, 77))
    assert _judge(tmp_path, guest, writer).status is Status.PASS
    place = guest.places[0, 40]
    guest.ram[place, 511] = 1
    (found,) = _judge(tmp_path, guest, writer).violations
    assert (found.code, found.expected, found.generation) == (Code.WRITE_ORDER_CORRUPT, "zeros", 0)
    assert (found.thread, found.index, found.offset) == (0, 40, place * PAGE)


def test_pages_of_zeros_saved_as_data_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit of violations wrong pages are counted, and these are right."""
    monkeypatch.setattr(verdict, "VIOLATION_LIMIT", 1)
    guest = Guest(counts=(60, 40), steps=(30, 77))
    _corrupt(guest, 3)
    result = _judge(tmp_path, guest, _ZerosAsData)
    assert (result.total, sum(map(len, result.bad_pages.values()))) == (3, 3)


def test_zero_pages_are_not_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index says that they are zero; most pages of a large guest may be."""
    read: list[int] = []
    monkeypatch.setattr(PageReader, "page", lambda _self, _block, number: read.append(number))
    assert _judge(tmp_path, Guest(counts=(60, 40), steps=(30, 77))).status is Status.PASS
    assert read == []


def test_page_of_zeros_must_be_in_the_stream(tmp_path: Path) -> None:
    """A page that was never written and that the stream lacks is missing, not zero."""
    guest = Guest(counts=(60, 40), steps=(30, 77))
    place = guest.places[0, 40]
    path = tmp_path / "file"
    path.write_bytes(Writer(guest, order=[page for page in range(256) if page != place]).stream())
    result = check_file(path).check("write-order")
    assert result is not None
    (found,) = result.violations
    assert (found.code, found.expected, found.offset) == (Code.WRITE_ORDER_MISSING, "zeros", place * PAGE)
    assert found.file_offset is None


@pytest.mark.parametrize(
    ("step", "generation", "code"),
    [(149, 2, Code.WRITE_ORDER_WRONG_GENERATION), (89, 3, Code.WRITE_ORDER_OLDER)],
)
def test_generation_and_step_must_both_be_right(
    tmp_path: Path, step: int, generation: int, code: Code
) -> None:
    """Page 29 of 60 was last written by step 149, for the third time."""
    guest = Guest()
    guest.ram[guest.places[0, 29]] = _page(0, 29, step, generation)
    (found,) = _judge(tmp_path, guest).violations
    assert (found.code, found.generation, found.thread, found.index) == (code, 3, 0, 29)
    content = (tmp_path / "file").read_bytes()
    assert found.file_offset is not None
    assert content[found.file_offset :][:PAGE] == guest.ram[guest.places[0, 29]].tobytes()


def test_page_that_nothing_names(tmp_path: Path) -> None:
    """It is named by thread and index, with the generation that it should have."""
    guest = Guest()
    page = guest.ram[_DIRECTORY]
    page[DirectoryWord.FRAMES + 29] = 0
    page[DirectoryWord.CHECKSUM] = ap.checksum(page[None, :])[0]
    _corrupt(guest, 1, first=29)
    (found,) = _judge(tmp_path, guest).violations
    assert (found.code, found.thread, found.index, found.generation) == (Code.WRITE_ORDER_NOT_FOUND, 0, 29, 3)
    assert (found.block, found.offset) == ("", None)


def test_page_of_zeros_that_nothing_names(tmp_path: Path) -> None:
    """It has no place, so no page of zeros elsewhere stands for it, not the first of the last RAMBlock."""
    guest = Guest(counts=(60, 40), steps=(30, 77))
    page = guest.ram[_DIRECTORY]
    page[DirectoryWord.FRAMES + 40] = 0
    page[DirectoryWord.CHECKSUM] = ap.checksum(page[None, :])[0]
    path = tmp_path / "file"
    path.write_bytes(Writer(guest, rom=bytes(2 * PAGE)).stream())
    (found,) = check_file(path).violations
    assert (found.code, found.thread, found.index, found.generation) == (Code.WRITE_ORDER_NOT_FOUND, 0, 40, 0)


@pytest.mark.parametrize("limit", [1, 5, 39, 40, 41, 1000])
@pytest.mark.parametrize("lost", [0, 3])
@pytest.mark.parametrize("writing", ["torn", "whole", "corrupt"])
def test_bad_pages_beyond_the_limit_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, lost: int, writing: str
) -> None:
    """Each once, on the map too; those without a place count, and the page that T0 falls into is no fault."""
    monkeypatch.setattr(verdict, "VIOLATION_LIMIT", limit)
    guest = Guest(counts=(100,), steps=(150,), torn=(300 if writing == "torn" else 0,))
    # Step 150 writes page 50.
    _corrupt(guest, 40, first=20 if writing == "corrupt" else 55)
    if writing == "whole":
        guest.ram[guest.places[0, 50]] = _page(0, 50, 150, 2)
    page = guest.ram[_DIRECTORY]
    for index in range(57, 57 + lost) if writing != "corrupt" else range(22, 22 + lost):
        page[DirectoryWord.FRAMES + index] = 0
    page[DirectoryWord.CHECKSUM] = ap.checksum(page[None, :])[0]
    result = _judge(tmp_path, guest)
    assert (result.total, len(result.violations)) == (40, min(limit, 40))
    assert sum(map(len, result.bad_pages.values())) == 40 - lost


def test_counted_pages_are_those_of_each_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map shows the places of the bad pages, and none of a right one."""
    monkeypatch.setattr(verdict, "VIOLATION_LIMIT", 2)
    guest = Guest()
    _corrupt(guest, 10, first=5)
    result = _judge(tmp_path, guest)
    assert sorted(result.bad_pages["pc.ram"]) == sorted(
        guest.places[0, index] * PAGE for index in range(5, 15)
    )
    assert set(result.bad_pages) == {"pc.ram"}


def test_pages_of_an_earlier_agent_are_none_of_this_one(tmp_path: Path) -> None:
    """A page with another nonce in the place of a page is named as an earlier agent's."""
    guest = Guest()
    one = [np.array([value], np.uint64) for value in (29, 3, 149)]
    guest.ram[guest.places[0, 29]] = ap.data_pages(NONCE + 1, 0, *one)[0]
    (found,) = _judge(tmp_path, guest).violations
    assert found.code is Code.WRITE_ORDER_OTHER_AGENT


def test_facts_of_a_judgement(tmp_path: Path) -> None:
    """Figures at T0 for people and for reports."""
    facts: dict[str, Any] = dict(_judge(tmp_path, Guest(pattern=ap.Pattern.RANDOM)).facts)
    assert facts == {
        "pages away from their directory place": 0,
        "steps of thread 0": 150,
        "steps of thread 1": 77,
        "pages verified": 100,
        "threads": 2,
        "pattern": "random",
        "monotonic_ns at T0": 123_000_000_000,
        "realtime_ns at T0": 1_700_000_000_000_000_000,
        "heartbeat at T0": 42,
        "address map": "i440fx",
    }
