"""Contract: the golden and write-order oracles pass a right snapshot and name the place of every fault."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from guest_images.agent import pages as ap
from guest_images.agent.format import (
    MAILBOX_MAGIC,
    AgentState,
    ControlWord,
    PageWord,
    ThreadWord,
    WriterState,
)
from harness.codes import Code
from harness.errors import UsageError
from harness.status import Status
from tests_unit.support.synthetic_stream import NONCE, PAGE, Guest, Writer, write_golden
from validators.judge import check_file
from validators.verdict import T0, CheckResult


def _judge(tmp_path: Path, writer: Writer, name: str = "write-order") -> CheckResult:
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    result = check_file(path).check(name)
    assert result is not None
    return result


def _page(guest: Guest, thread: int, index: int, step: int, generation: int) -> ap.Words:
    one = [np.array([value], np.uint64) for value in (index, generation, step)]
    page: ap.Words = guest.schedule(thread).content(NONCE, *one)[0]
    return page


@pytest.mark.parametrize("pattern", range(5))
@pytest.mark.parametrize("torn", [(0, 0), (1, 511), (300, 0)])
@pytest.mark.parametrize("mapped", [False, True])
def test_right_snapshot_passes(tmp_path: Path, pattern: int, torn: tuple[int, int], mapped: bool) -> None:
    """Every pattern passes, with and without a page caught in the middle of its write."""
    writer = Writer(Guest(pattern=pattern, torn=torn, steps=(157, 77)), mapped=mapped)
    result = _judge(tmp_path, writer)
    assert result.status is Status.PASS, result.violations[:3]
    assert result.facts["pages verified"] == 100
    assert result.facts["steps of thread 1"] == 77
    assert result.t0 == T0((157, 77), int(result.facts["monotonic_ns at T0"]))
    assert result.facts["realtime_ns at T0"] == 1_700_000_000_000_000_000


def test_page_done_but_not_counted_passes(tmp_path: Path) -> None:
    """At T0 a page may be complete while the thread's counter is not stored yet."""
    guest = Guest()
    index, generation = guest.schedule(0).locate(np.array([150], np.uint64))
    guest.ram[guest.places[0, int(index[0])]] = _page(guest, 0, int(index[0]), 150, int(generation[0]))
    assert _judge(tmp_path, Writer(guest)).status is Status.PASS


def test_no_agent_is_skipped(tmp_path: Path) -> None:
    """A guest without an agent has no write order to judge."""
    result = _judge(tmp_path, Writer(Guest(agent=False)))
    assert result.status is Status.SKIP
    assert "no agent" in result.reason


@pytest.mark.parametrize(("step", "generation", "word"), [(210, 4, "newer"), (30, 1, "older")])
def test_page_from_another_time_is_named(tmp_path: Path, step: int, generation: int, word: str) -> None:
    """A page from after or before T0 is reported with its place, thread and distance in steps."""
    guest = Guest()
    place = guest.places[0, 30]
    guest.ram[place] = _page(guest, 0, 30, step, generation)
    result = _judge(tmp_path, Writer(guest))
    assert result.total == 1
    found = result.violations[0]
    assert (found.block, found.offset, found.gpa) == ("pc.ram", place * PAGE, place * PAGE)
    assert (found.thread, found.index) == (0, 30)
    assert found.code == f"write-order.{word}"
    assert f"{word} than T0 by" in found.sentence


@pytest.mark.parametrize("pattern", [ap.Pattern.RANDOM, ap.Pattern.HOT])
@pytest.mark.parametrize("passes", [0.25, 0.5, 1, 1.3, 1.5, 2, 4])
def test_unprotected_save_is_newer_not_older(tmp_path: Path, pattern: int, passes: float) -> None:
    """Pages from after T0 do not outvote a counter from T0, at any speed of the writer."""
    guest = Guest(pattern=pattern, counts=(160,), steps=(400,), torn=(0,))
    for (thread, index), place in guest.places.items():
        saved_at = 400 + int(passes * 160 * (place - 20) / 170)
        generation, step = guest.schedule(thread).state(saved_at)
        guest.ram[place] = _page(guest, thread, index, int(step[index]), int(generation[index]))
    result = _judge(tmp_path, Writer(guest))
    assert result.facts["steps of thread 0"] == 400
    assert result.status is Status.FAIL
    assert {found.code for found in result.violations} == {Code.WRITE_ORDER_NEWER}
    assert all("newer than T0 by" in found.sentence for found in result.violations)


def test_step_after_next_is_not_excused(tmp_path: Path) -> None:
    """A step after the next one is a violation: only the next may have begun at T0."""
    guest = Guest()
    index, generation = guest.schedule(0).locate(np.array([151], np.uint64))
    guest.ram[guest.places[0, int(index[0])]] = _page(guest, 0, int(index[0]), 151, int(generation[0]))
    result = _judge(tmp_path, Writer(guest))
    assert result.total == 1
    assert result.violations[0].code is Code.WRITE_ORDER_NEWER


@pytest.mark.parametrize("word", [0, 1, 4, 5, 6, 300, 510, 511])
@pytest.mark.parametrize("bit", [0, 63])
def test_any_flipped_bit_is_found(tmp_path: Path, word: int, bit: int) -> None:
    """Every bit of an agent page is checked."""
    guest = Guest()
    place = guest.places[1, 20]
    guest.ram[place, word] ^= np.uint64(1 << bit)
    result = _judge(tmp_path, Writer(guest))
    assert result.total == 1
    assert result.violations[0].offset == place * PAGE
    assert result.violations[0].code is Code.WRITE_ORDER_CORRUPT
    assert f"word {word} " in result.violations[0].sentence
    assert result.violations[0].hexdump


def test_swapped_pages_are_both_named(tmp_path: Path) -> None:
    """Two pages in each other's place are two violations that say where the content belongs."""
    guest = Guest()
    places = [guest.places[0, 5], guest.places[1, 7]]
    guest.ram[places] = guest.ram[places[::-1]]
    result = _judge(tmp_path, Writer(guest))
    assert {found.offset for found in result.violations} == {place * PAGE for place in places}
    assert {found.code for found in result.violations} == {Code.WRITE_ORDER_MISPLACED}
    assert all("belongs elsewhere" in found.sentence for found in result.violations)


@pytest.mark.parametrize(("step", "generation", "age"), [(160, 3, "newer"), (40, 1, "older")])
def test_torn_page_must_be_the_next_one(tmp_path: Path, step: int, generation: int, age: str) -> None:
    """A mixture of new and old words is only right for the page that step S is writing."""
    guest = Guest()
    place = guest.places[0, 40]
    guest.ram[place, :100] = _page(guest, 0, 40, step, generation)[:100]
    result = _judge(tmp_path, Writer(guest))
    assert result.total == 1
    (found,) = result.violations
    assert (found.code, found.fields) == (Code.WRITE_ORDER_TORN, {"age": age})
    assert f"torn at word 100: {age} by" in found.sentence


@pytest.mark.parametrize("change", [5, 50, 400])
def test_thread_counter_that_disagrees_is_its_own_violation(tmp_path: Path, change: int) -> None:
    """The thread page is wrong if most pages agree on another step count."""
    guest = Guest(counts=(60, 40), steps=(150, 77))
    guest.ram[4, 4] += np.uint64(change)
    result = _judge(tmp_path, Writer(guest))
    assert result.status is Status.FAIL
    if change >= 50:
        assert result.total == 1
        assert result.violations[0].code is Code.WRITE_ORDER_WRONG_COUNTER
        assert result.violations[0].offset == 4 * PAGE
        assert result.facts["steps of thread 0"] == 150


def test_page_missing_and_marked_zero(tmp_path: Path) -> None:
    """A page of zeros where a written page should be is named as such."""
    guest = Guest()
    place = guest.places[0, 12]
    guest.ram[place] = 0
    result = _judge(tmp_path, Writer(guest))
    assert result.violations[0].offset == place * PAGE
    assert result.violations[0].code is Code.WRITE_ORDER_ZERO


def test_lost_control_page_is_a_failure(tmp_path: Path) -> None:
    """Agent pages without their control page are no guest without an agent."""
    guest = Guest()
    guest.ram[guest.control_page] = 0
    (found,) = _judge(tmp_path, Writer(guest)).violations
    assert found.code is Code.WRITE_ORDER_NO_CONTROL_PAGE


def test_corrupt_directory_is_one_violation(tmp_path: Path) -> None:
    """Pages name themselves, so a broken directory does not take all its pages with it."""
    guest = Guest()
    guest.ram[10, 20] ^= np.uint64(4)
    result = _judge(tmp_path, Writer(guest))
    assert result.total == 1
    assert result.violations[0].offset == 10 * PAGE
    assert result.violations[0].code is Code.WRITE_ORDER_BAD_DIRECTORY_PAGE


@pytest.mark.parametrize("content", ["zero", "other"])
def test_lost_directories_are_named(tmp_path: Path, content: str) -> None:
    """The loss of all directory pages is a failure, since two swapped pages would then pass."""
    guest = Guest()
    for place in (10, 11):
        guest.ram[place] = 0 if content == "zero" else guest.ram[200]
    first, second = guest.places[0, 3], guest.places[0, 9]
    guest.ram[[first, second]] = guest.ram[[second, first]]
    result = _judge(tmp_path, Writer(guest))
    assert [found.code for found in result.violations] == [Code.WRITE_ORDER_NO_DIRECTORY_PAGE] * 2
    assert "The directory page of pages 0 to 59 of agent thread 0 is not in RAM." in (
        result.violations[0].sentence
    )


def test_directory_page_in_anothers_place(tmp_path: Path) -> None:
    """A directory page that is another thread's is a lost one."""
    guest = Guest()
    guest.ram[10] = guest.ram[11]
    (found,) = _judge(tmp_path, Writer(guest)).violations
    assert (found.code, found.thread) == (Code.WRITE_ORDER_NO_DIRECTORY_PAGE, 0)


def test_old_copy_of_a_directory_page_is_no_fault(tmp_path: Path) -> None:
    """The kernel may move a page and leave the old one behind in memory that is free."""
    guest = Guest()
    guest.ram[195] = guest.ram[10]
    assert _judge(tmp_path, Writer(guest)).status is Status.PASS


@pytest.mark.parametrize(
    ("page", "word", "value", "code"),
    [
        (3, ControlWord.DATA_PAGES, 99, Code.WRITE_ORDER_LOST_THREAD),
        (3, ControlWord.DATA_PAGES, 101, Code.WRITE_ORDER_LOST_THREAD),
        (3, ControlWord.STATE, 4, Code.WRITE_ORDER_BAD_CONTROL_PAGE),
        (3, 24, 1, Code.WRITE_ORDER_BAD_CONTROL_PAGE),
        (3, 511, 1 << 63, Code.WRITE_ORDER_BAD_CONTROL_PAGE),
        (5, ThreadWord.ERRORS, 1, Code.WRITE_ORDER_AGENT_ERRORS),
        (5, ThreadWord.FIRST_ERROR, 7, Code.WRITE_ORDER_BAD_THREAD_PAGE),
        (5, ThreadWord.STATE, 3, Code.WRITE_ORDER_BAD_THREAD_PAGE),
        (5, ThreadWord.STATE, WriterState.NOT_STARTED, Code.WRITE_ORDER_BAD_THREAD_PAGE),
        (5, 14, 1, Code.WRITE_ORDER_BAD_THREAD_PAGE),
        (5, 48, 1, Code.WRITE_ORDER_BAD_THREAD_PAGE),
        (5, 511, 1, Code.WRITE_ORDER_BAD_THREAD_PAGE),
        (5, ThreadWord.WRITES_TIMED, 1, Code.WRITE_ORDER_BAD_THREAD_PAGE),
        (5, ThreadWord.HISTOGRAM + 31, 2, Code.WRITE_ORDER_BAD_THREAD_PAGE),
        (5, ThreadWord.FINE_HISTOGRAM + 279, 2, Code.WRITE_ORDER_BAD_THREAD_PAGE),
        (5, ThreadWord.MONOTONIC_NS, 123_000_000_001, Code.WRITE_ORDER_OTHER_MOMENT),
        (5, ThreadWord.MONOTONIC_NS, 121_999_999_999, Code.WRITE_ORDER_OTHER_MOMENT),
    ],
)
def test_word_that_cannot_be(tmp_path: Path, page: int, word: int, value: int, code: Code) -> None:
    """Pages that describe the agent have no checksum, so each of their words is checked by its meaning."""
    guest = Guest()
    guest.ram[page, word] = value
    violations = _judge(tmp_path, Writer(guest)).violations
    assert {found.code for found in violations} == {code}
    assert violations[0].offset == page * PAGE


@pytest.mark.parametrize("state", [AgentState.IDLE, AgentState.PAUSED])
def test_writer_that_writes_while_the_agent_does_not_run(tmp_path: Path, state: AgentState) -> None:
    """The agent runs before its writers do, and is paused after them, so other states are of two moments."""
    guest = Guest()
    guest.ram[3, ControlWord.STATE] = state
    violations = _judge(tmp_path, Writer(guest)).violations
    assert [(found.code, found.thread) for found in violations] == [
        (Code.WRITE_ORDER_OTHER_MOMENT, 0),
        (Code.WRITE_ORDER_OTHER_MOMENT, 1),
    ]
    assert f"the agent was {state.name.lower()}" in violations[0].sentence


def test_thread_that_the_control_page_does_not_count(tmp_path: Path) -> None:
    """A thread that is no longer counted would be judged by nothing."""
    guest = Guest()
    guest.ram[3, ControlWord.THREADS] = 1
    codes = [found.code for found in _judge(tmp_path, Writer(guest)).violations]
    assert codes == [Code.WRITE_ORDER_BAD_DIRECTORY_PAGE, Code.WRITE_ORDER_LOST_THREAD]


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (5, {ThreadWord.MONOTONIC_NS: 123_000_000_000}),
        (5, {ThreadWord.MONOTONIC_NS: 122_000_000_000}),
        (5, {ThreadWord.MONOTONIC_NS: 100_000_000_000, ThreadWord.LONGEST_GAP_NS: 11_000_000_000}),
        (5, {ThreadWord.MONOTONIC_NS: 100_000_000_000, ThreadWord.STATE: WriterState.PARKED}),
        (5, {ThreadWord.MONOTONIC_NS: 0}),
        (5, {ThreadWord.HISTOGRAM: 1, ThreadWord.FINE_HISTOGRAM: 1}),
        (5, {ThreadWord.HISTOGRAM: 5, ThreadWord.FINE_HISTOGRAM + 9: 4, ThreadWord.WRITES_TIMED: 4}),
    ],
)
def test_words_that_can_be(tmp_path: Path, page: int, words: dict[int, int]) -> None:
    """T0 may fall between two stores, a writer may be parked or slow, and old agents have no clock there."""
    guest = Guest()
    for word, value in words.items():
        guest.ram[page, word] = value
    assert _judge(tmp_path, Writer(guest)).status is Status.PASS


@pytest.mark.parametrize("word", [ControlWord.REQUEST, ControlWord.META, ControlWord.ARGUMENTS + 11])
def test_mailbox_of_a_bare_agent(tmp_path: Path, word: int) -> None:
    """Words of the mailbox are there in a bare agent's control page only, and it has no others."""
    bare, linux, more = Guest(), Guest(), Guest()
    for guest, mark, used in ((bare, MAILBOX_MAGIC, word), (linux, 0, word), (more, MAILBOX_MAGIC, 44)):
        guest.ram[guest.control_page, ControlWord.MAILBOX] = mark
        guest.ram[guest.control_page, used] = 7
    assert _judge(tmp_path, Writer(bare)).status is Status.PASS
    for guest in (linux, more):
        (found,) = _judge(tmp_path, Writer(guest)).violations
        assert found.code is Code.WRITE_ORDER_BAD_CONTROL_PAGE


@pytest.mark.parametrize("machine", ["pc-q35-10.0", "virt-10.0", "made-up"])
def test_address_map_follows_machine_or_pages(tmp_path: Path, machine: str) -> None:
    """A rule that the pages do not bear out gives way to what the pages say of themselves."""
    result = _judge(tmp_path, Writer(Guest(machine=machine)))
    assert result.status is Status.PASS
    assert result.facts["address map"] == ("q35" if "q35" in machine else "self-identification")


def test_hostile_control_page_is_bounded(tmp_path: Path) -> None:
    """Absurd counts in agent pages are violations, not loops or allocations."""
    for word, value in ((3, 99), (5, 1 << 40), (7, 1 << 50), (6, 0)):
        guest = Guest()
        guest.ram[guest.control_page, word] = value
        (found,) = _judge(tmp_path, Writer(guest)).violations
        assert found.code is Code.WRITE_ORDER_BAD_CONTROL_PAGE
    guest = Guest()
    guest.ram[4, 3] = (1 << 63) + 5
    assert _judge(tmp_path, Writer(guest)).violations[0].code is Code.WRITE_ORDER_BAD_THREAD_PAGE


@pytest.mark.parametrize("pattern", range(5))
def test_state_agrees_with_writing_step_by_step(pattern: int) -> None:
    """The state after S steps is what S single writes in order leave behind."""
    schedule = ap.Schedule(pattern, 37, 99, 2)
    generation, last = np.zeros(37, np.uint64), np.zeros(37, np.uint64)
    for step in range(400):
        expected = schedule.state(step)
        assert np.array_equal(expected[0], generation), step
        assert np.array_equal(expected[1], last), step
        index, count = schedule.locate(np.array([step], np.uint64))
        at = int(index[0])
        if generation[at]:
            again = schedule.next_write(np.array([at], np.uint64), last[at : at + 1])
            assert int(again[0]) == step
        generation[at], last[at] = count[0], step


@pytest.mark.parametrize("mapped", [False, True])
def test_golden_passes_and_names_first_byte(tmp_path: Path, mapped: bool) -> None:
    """Equal RAM passes; one other byte is named with page and place, in both directions."""
    writer = Writer(Guest(), mapped=mapped)
    golden = write_golden(tmp_path / "golden", writer)
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    right = check_file(path, golden=golden).check("golden")
    assert right is not None
    assert (right.status, right.facts["pages compared"]) == (Status.PASS, 258)
    file = golden / "block-000.ram"
    for page in (210, 100 if not writer.guest.ram[100].any() else 19):
        data = bytearray(file.read_bytes())
        data[page * PAGE + 0x123] ^= 0x10
        file.write_bytes(data)
        wrong = check_file(path, golden=golden).check("golden")
        assert wrong is not None
        places = [(found.block, found.offset) for found in wrong.violations]
        assert ("pc.ram", page * PAGE) in places
        assert {found.code for found in wrong.violations} == {Code.GOLDEN_DIFFERS}
        assert any("+0x123" in found.sentence for found in wrong.violations)


def test_golden_as_one_file_and_of_wrong_size(tmp_path: Path) -> None:
    """A raw file stands for the largest RAMBlock; another size is a violation."""
    writer = Writer(Guest())
    path, raw = tmp_path / "file", tmp_path / "raw"
    path.write_bytes(writer.stream())
    raw.write_bytes(writer.guest.ram.tobytes())
    assert check_file(path, golden=raw).check("golden").status is Status.PASS  # type: ignore[union-attr]
    raw.write_bytes(writer.guest.ram.tobytes()[:-PAGE])
    (found,) = check_file(path, golden=raw).violations
    assert (found.check, found.code) == ("golden", Code.GOLDEN_BLOCK_LENGTH)


def test_golden_that_leaves_blocks_out(tmp_path: Path) -> None:
    """A block missing from the image fails, unless the image names it as left out; never the main RAM."""
    writer = Writer(Guest())
    path, golden = tmp_path / "file", write_golden(tmp_path / "golden", writer)
    path.write_bytes(writer.stream())
    whole = json.loads((golden / "golden.json").read_text())

    def judged(kept: int, left_out: list[str]) -> CheckResult:
        entries = [{"idstr": name} for name in left_out]
        content = {**whole, "blocks": [whole["blocks"][kept]], "left_out": entries}
        (golden / "golden.json").write_text(json.dumps(content))
        result = check_file(path, golden=golden).check("golden")
        assert result is not None
        return result

    (missing,) = judged(0, []).violations
    assert (missing.code, missing.block) == (Code.GOLDEN_BLOCK_NOT_IN_IMAGE, "pc.rom")
    named = judged(0, ["pc.rom"])
    assert named.status is Status.PASS
    assert named.facts["RAMBlocks left out of the golden image"] == "pc.rom"
    assert judged(1, ["pc.ram"]).status is Status.FAIL


def test_golden_that_cannot_be_used_is_a_usage_error(tmp_path: Path) -> None:
    """A folder without a usable golden.json is the user's mistake; names in it lead nowhere else."""
    path, folder = tmp_path / "file", tmp_path / "golden"
    path.write_bytes(Writer(Guest()).stream())
    folder.mkdir()
    with pytest.raises(UsageError):
        check_file(path, golden=folder)
    entry = {"idstr": "pc.ram", "bytes": 1, "file": "../../../etc/passwd"}
    (folder / "golden.json").write_text(json.dumps({"version": 1, "blocks": [entry]}))
    with pytest.raises(UsageError, match="golden/passwd"):
        check_file(path, golden=folder)


def test_copy_of_a_lost_page_is_said_to_be_where_it_is(tmp_path: Path) -> None:
    """The sentence names RAMBlock and offset of one copy, though there are others elsewhere."""
    guest = Guest()
    place = guest.places[0, 3]
    content = guest.ram[place].copy()
    guest.ram[place], guest.ram[195] = 0, content
    (found,) = _judge(tmp_path, Writer(guest, rom=content.tobytes() * 2)).violations
    assert f"A copy of that page is at 0x{195 * PAGE:x} of RAMBlock 'pc.ram'." in found.sentence


def test_sentence_names_the_thread_page_that_the_control_page_does_not_count(tmp_path: Path) -> None:
    """Only pages of this agent count; one of an earlier agent may lie in free memory."""
    guest = Guest()
    guest.ram[195] = guest.ram[5]
    guest.ram[195, PageWord.NONCE] = 5
    guest.ram[195, ThreadWord.NUMBER] = 7
    assert _judge(tmp_path, Writer(guest)).status is Status.PASS
    guest.ram[3, ControlWord.THREADS] = 1
    sentence = _judge(tmp_path, Writer(guest)).violations[-1].sentence
    assert "there are 1 threads, and the thread page of thread 1 is in RAM" in sentence


def test_pages_of_a_thread_that_cannot_be_judged_do_not_count(tmp_path: Path) -> None:
    """The number of pages verified is that of the pages that were compared with their thread's steps."""
    guest = Guest()
    guest.ram[4, ThreadWord.PAGES] = 0
    result = _judge(tmp_path, Writer(guest))
    assert Code.WRITE_ORDER_BAD_THREAD_PAGE in {found.code for found in result.violations}
    assert result.facts["pages verified"] == 40
