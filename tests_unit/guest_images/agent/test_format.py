"""Contract: the agent writes exactly the documented format; the model in Python checks the C side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from guest_images.agent.format import (
    CONTROL_MAGIC,
    DATA_MAGIC,
    DIRECTORY_ENTRIES,
    DIRECTORY_MAGIC,
    FINE_BUCKETS,
    FORMAT_VERSION,
    HISTOGRAM_BUCKETS,
    PAGE_BYTES,
    PAGE_WORDS,
    THREAD_MAGIC,
    AgentState,
    ControlWord,
    DataWord,
    DirectoryWord,
    PageWord,
    ThreadWord,
    WriterState,
    fine_bucket_ns,
)
from guest_images.agent.pages import PATTERNS, Pattern, Schedule, Words, checksum, mix
from harness.deadline import Deadline
from tests_unit.guest_images.agent.agent_host import HostAgent, Stopped, anonymous_bytes

pytest_plugins = ["tests_unit.guest_images.agent.agent_fixtures"]

SEED = 0xFEDCBA9876543210
PAGES = 301
"""Split over two threads this gives one odd and one even number of pages."""

Serve = Callable[..., HostAgent]


def schedules(pattern: int, pages: int = PAGES) -> list[Schedule]:
    """The schedules of two threads that share the pages evenly, the first one taking the odd page."""
    return [Schedule(pattern, (pages + 1 - thread) // 2, SEED, thread) for thread in range(2)]


def expected(schedule: Schedule, nonce: int, steps: int) -> Words:
    """All pages of a thread after `steps` steps: uint64[pages, 512]."""
    generation, step = schedule.state(steps)
    return schedule.content(nonce, np.arange(schedule.pages, dtype=np.uint64), generation, step)


def chained(last_words: Words) -> int:
    """The checksum that `verify` reports, from the last words of the pages in index order."""
    total = np.zeros(1, np.uint64)
    for word in last_words:
        total = mix(total + word)
    return int(total[0])


@pytest.mark.parametrize("pattern", Pattern, ids=PATTERNS)
def test_content_equals_the_model_at_every_pause(serve: Serve, pattern: int) -> None:
    """While all writers are parked, each page has the content that its thread's step count implies."""
    agent = serve(bytes=PAGES * PAGE_BYTES, threads=2, pattern=PATTERNS[pattern], seed=SEED, rate=3000)
    agent.ctl("start")
    middle_of_pass = False
    for target in (40, 400, 500, 1700):
        agent.run_until(target)
        paused = agent.ctl("pause")
        verdict = agent.ctl("verify")
        assert verdict["ok"] and verdict["pages_checked"] == PAGES
        nonce = agent.ctl("status")["nonce"]
        for schedule, steps in zip(schedules(pattern), paused["steps"], strict=True):
            pages = agent.dump(schedule.thread, schedule.pages)
            np.testing.assert_array_equal(pages, expected(schedule, nonce, steps))
            report = verdict["threads"][schedule.thread]
            assert (report["pages"], report["steps"]) == (schedule.pages, steps)
            assert report["checksum"] == chained(pages[:, DataWord.CHECKSUM])
            middle_of_pass |= steps % schedule.pages != 0
        agent.ctl("resume")
    assert middle_of_pass
    assert sum(thread["errors"] for thread in agent.ctl("status")["threads"]) == 0


def assert_prefix(schedule: Schedule, nonce: int, steps: int, found: Words) -> int:
    """Check that pages are `steps` steps done and the next one done in part; how many words of it are."""
    before, after = (expected(schedule, nonce, count) for count in (steps, steps + 1))
    index = int(schedule.locate(np.array([steps], np.uint64))[0][0])
    others = np.arange(schedule.pages) != index
    np.testing.assert_array_equal(found[others], before[others])
    new, old, page = after[index], before[index], found[index]
    words = int(np.argmin(np.append(page == new, False)))
    np.testing.assert_array_equal(page[words:], old[words:])
    return words


@pytest.mark.parametrize("pattern", ["sequential", "random", "hot"])
def test_memory_is_a_prefix_of_the_write_order_at_any_instant(serve: Serve, pattern: str) -> None:
    """Stopped anywhere, memory holds S steps and a prefix of the words of the next one."""
    agent = serve(bytes=64 * PAGE_BYTES, threads=2, pattern=pattern, seed=SEED)
    nonce = agent.ctl("status")["nonce"]
    agent.ctl("start")
    # Pattern "hot" has written each of its cold pages after 10 steps per page.
    agent.run_until(32 * 12)
    torn = 0
    for _ in range(40):
        with Stopped(agent) as stopped:
            try:
                pages = stopped.pages()
            except PermissionError:
                pytest.skip("this user may not read the memory of a process that is not its child")
        pages = pages[pages[:, PageWord.NONCE] == np.uint64(nonce)]
        for schedule in schedules(PATTERNS.index(pattern), 64):
            threads, data = (
                pages[(pages[:, PageWord.MAGIC] == magic) & (pages[:, number] == np.uint64(schedule.thread))]
                for magic, number in ((THREAD_MAGIC, ThreadWord.NUMBER), (DATA_MAGIC, DataWord.THREAD))
            )
            steps = int(threads[0, ThreadWord.STEPS])
            found = data[np.argsort(data[:, DataWord.INDEX])]
            assert len(found) == schedule.pages
            torn += 0 < assert_prefix(schedule, nonce, steps, found) < PAGE_WORDS
    assert torn > 0, "no stop fell into the middle of a page write"


def test_before_the_first_write_all_pages_are_zero_and_their_own(serve: Serve) -> None:
    """After `serve` each page has a frame of its own, and is zero."""
    agent = serve(bytes=PAGES * PAGE_BYTES, threads=2)
    assert not agent.dump(0, 151).any()
    assert agent.ctl("verify")["ok"]
    assert anonymous_bytes(agent.pid) >= PAGES * PAGE_BYTES


def test_control_and_thread_pages(serve: Serve) -> None:
    """The control page describes the run and its clocks tick; thread pages count steps and stalls."""
    agent = serve(bytes=PAGES * PAGE_BYTES, threads=2, pattern="hot", seed=SEED, guest_ram=1 << 29)
    agent.ctl("start")
    agent.run_until(1000)
    Deadline(20).wait_for(lambda: agent.ctl("status")["heartbeats"] >= 3, "The third heartbeat")
    paused = agent.ctl("pause")
    status = agent.ctl("status")
    control, *threads = agent.dump("meta", 3)
    wanted = {
        PageWord.MAGIC: CONTROL_MAGIC,
        PageWord.NONCE: status["nonce"],
        ControlWord.VERSION: FORMAT_VERSION,
        ControlWord.PATTERN: Pattern.HOT,
        ControlWord.SEED: SEED,
        ControlWord.THREADS: 2,
        ControlWord.PAGE_SIZE: PAGE_BYTES,
        ControlWord.DATA_PAGES: PAGES,
        ControlWord.STATE: AgentState.PAUSED,
        ControlWord.GUEST_RAM: 1 << 29,
    }
    assert {word: int(control[word]) for word in wanted} == wanted
    assert abs(int(control[ControlWord.MONOTONIC_NS]) - status["monotonic_ns"]) < 10**9
    assert abs(int(control[ControlWord.REALTIME_NS]) - status["realtime_ns"]) < 10**9
    assert int(control[ControlWord.HEARTBEATS]) >= status["heartbeats"] > 0
    # Two heartbeats are 10 ms apart at least.
    assert int(control[ControlWord.LONGEST_GAP_NS]) >= 10**7
    for number, page in enumerate(threads):
        steps = paused["steps"][number]
        count = (PAGES + 1 - number) // 2
        wanted = {
            PageWord.MAGIC: THREAD_MAGIC,
            PageWord.NONCE: status["nonce"],
            ThreadWord.NUMBER: number,
            ThreadWord.PAGES: count,
            ThreadWord.STEPS: steps,
            ThreadWord.ERRORS: 0,
            ThreadWord.FIRST_ERROR: 0,
            ThreadWord.STATE: WriterState.PARKED,
            ThreadWord.WRITES_TIMED: steps,
        }
        assert {word: int(page[word]) for word in wanted} == wanted
        _require_histograms(page, steps, status["threads"][number]["hist"])


def _require_histograms(page: Words, steps: int, reported: list[int]) -> None:
    """Assert that the histograms of a thread page hold each write once, and the longest at their ends."""
    coarse = page[ThreadWord.HISTOGRAM : ThreadWord.HISTOGRAM + HISTOGRAM_BUCKETS]
    assert int(coarse.sum()) == steps
    assert list(coarse) == reported
    fine = page[ThreadWord.FINE_HISTOGRAM : ThreadWord.FINE_HISTOGRAM + FINE_BUCKETS]
    assert int(fine.sum()) == steps
    first, end = fine_bucket_ns(int(np.flatnonzero(fine)[-1]))
    longest = int(page[ThreadWord.LONGEST_WRITE_NS])
    assert first <= longest < end
    highest = int(np.flatnonzero(coarse)[-1])
    assert highest == max(0, (longest // 1000).bit_length() - 1)
    # A gap holds a whole write, so the longest one is no shorter than the longest write.
    assert int(page[ThreadWord.LONGEST_GAP_NS]) >= longest or steps < 2


def test_directory_pages_list_every_data_page(serve: Serve) -> None:
    """Each thread's directory covers its indexes in order, with a checksum and distinct frames."""
    pages = 1003
    agent = serve(bytes=2 * pages * PAGE_BYTES, threads=2)
    status = agent.ctl("status")
    directory = agent.dump("meta", status["meta_pages"])[3:]
    assert len(directory) == 2 * 3
    np.testing.assert_array_equal(checksum(directory), directory[:, DirectoryWord.CHECKSUM])
    frames: list[int] = []
    for number, page in enumerate(directory):
        thread, part = divmod(number, 3)
        first = part * DIRECTORY_ENTRIES
        count = min(DIRECTORY_ENTRIES, pages - first)
        wanted = {
            PageWord.MAGIC: DIRECTORY_MAGIC,
            PageWord.NONCE: status["nonce"],
            DirectoryWord.THREAD: thread,
            DirectoryWord.FIRST_INDEX: first,
            DirectoryWord.COUNT: count,
        }
        assert {word: int(page[word]) for word in wanted} == wanted
        end = DirectoryWord.FRAMES + count
        frames += [int(word) for word in page[DirectoryWord.FRAMES : end]]
        assert not page[end : DirectoryWord.CHECKSUM].any()
    assert status["moved"] == 0
    if status["pfn_known"]:
        assert len(set(frames)) == 2 * pages and 0 not in frames
    else:
        assert set(frames) == {0}


def test_sparse_holes_are_never_backed(serve: Serve) -> None:
    """Pattern sparse leaves every other page of its mapping untouched while it writes."""
    size = 1024 * PAGE_BYTES
    agent = serve(bytes=size, threads=2, pattern=PATTERNS[Pattern.SPARSE])
    agent.ctl("start")
    agent.run_until(2000)
    agent.ctl("pause")
    assert size <= anonymous_bytes(agent.pid) < size + size // 2
    assert agent.ctl("verify")["holes_checked"] == 1024
