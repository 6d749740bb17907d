"""The matrix of contracts: each cell has a test or a reason, and a cell sees protection that is lost."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from harness.userfaultfd import (
    PAGE_BYTES,
    Region,
    Userfaultfd,
    libc,
    probe_userfaultfd,
    read_pagemap,
    scan_supported,
)
from tests_functional.kernel import content as contents
from tests_functional.kernel import registry
from tests_functional.kernel.checks import movement
from tests_functional.kernel.content import CONTENTS
from tests_functional.kernel.isolate import Result, run_isolated
from tests_functional.kernel.matrix import cells, reproducer, subject, zap
from tests_functional.kernel.matrix.cells import MEMORIES, WAYS, Cell
from tests_functional.kernel.matrix.subject import ONE, RELEASED, Expected, Subject, samples
from tests_functional.kernel.memory import ANON, HUGE_BYTES
from tests_functional.kernel.oracle import release
from tests_functional.kernel.registry import FeatureTest
from tests_functional.kernel.trial import LimitReached, Skip, Trial

_CELLS = tuple(cells.cells())


def _cell(way: str, content: str, memory: str) -> Cell:
    (found,) = [
        one for one in _CELLS if (one.way.name, one.content.name, one.memory.name) == (way, content, memory)
    ]
    return found


def test_every_cell_has_a_test_or_a_reason() -> None:
    """All three dimensions are complete, and no cell is left without an answer."""
    assert len(_CELLS) == len(WAYS) * len(CONTENTS) * len(MEMORIES)
    assert all(bool(cell.test) != bool(cell.reason) for cell in _CELLS)
    assert len(_CELLS) > 2000
    assert sum(bool(cell.test) for cell in _CELLS) > 600


def test_named_tests_exist_and_are_named_once_for_each_cell() -> None:
    """A cell that another suite tests names a test of the list."""
    slugs = {test.slug for test in registry.all_tests()}
    assert {cell.test for cell in _CELLS if cell.test} <= slugs
    for way in WAYS:
        for content, memory in way.named:
            assert _cell(way.name, content, memory).test == way.named[content, memory]


def test_generated_tests_are_those_of_the_suite() -> None:
    """The suite `matrix` has the generated cells, and nothing else."""
    listed = {test.slug for test in registry.all_tests() if test.suite == cells.SUITE}
    assert listed == {cell.test for cell in _CELLS if cell.generated}


def test_ways_do_something() -> None:
    """A way without action has tests of other suites in all cells that have one."""
    for way in WAYS:
        assert way.contract.endswith(".") and way.code
        assert not (way.act and way.recipe)
        if not way.act and not way.recipe:
            assert not any(cell.generated for cell in _CELLS if cell.way is way)


def test_the_two_bugs_of_huge_pages_have_cells() -> None:
    """Those that were seen by hand: zero-filled pages of a split huge page, and the huge zero page."""
    for way in ("cold-one", "free-one", "pageout-one"):
        assert _cell(way, "zero-filled", "anon-thp").generated
    assert _cell("release-one", "huge-zero", "anon-thp").generated


def test_zero_page_is_told_from_an_own_page() -> None:
    """A read may map an own huge page; its cell would then not be about the huge zero page."""
    with Region.anonymous(2 * PAGE_BYTES) as region:
        libc.madvise(region.address, region.length, libc.MADV_NOHUGEPAGE)
        region.load(0, 1)
        region.store(PAGE_BYTES, b"x")
        zero, own = (entry.frame for entry in read_pagemap(region.address, region.length))
        if not zero or contents._zero_page(zero) is None:
            pytest.skip("This user may not see frames and their flags.")
        assert contents._zero_page(zero)
        assert contents._zero_page(own) is False
        assert contents.zero_pages([zero, own, 0, zero]) == 2


class _Counter:
    """A file of the kernel with a number that changes at each look, and stays the last one."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = list(numbers)

    def exists(self) -> bool:
        return True

    def read_text(self) -> str:
        return f"{self._numbers.pop(0) if len(self._numbers) > 1 else self._numbers[0]}\n"


def _waited(monkeypatch: pytest.MonkeyPatch, merged: _Counter, scans: _Counter, without: int = 0) -> str:
    """Return why the wait for eight merged pages skipped the test, empty if it did not."""
    monkeypatch.setattr(movement, "_MERGED", merged)
    monkeypatch.setattr(movement, "_SCANS", scans)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    try:
        movement.wait_until_merged(Trial(ANON, 0), 8, without=lambda: without)
    except Skip as skip:
        return str(skip)
    return ""


def test_merging_is_waited_for_by_scans_and_not_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """KSM that goes on scanning and merges nothing more is not waited for; pages with zeros count too."""
    most = movement._VAIN_SCANS
    assert _waited(monkeypatch, _Counter(0, 0, 8), _Counter(1)) == ""
    assert _waited(monkeypatch, _Counter(0), _Counter(*range(99))).startswith("KSM merged 0 of 8 equal")
    assert _waited(monkeypatch, _Counter(0, 4, 8), _Counter(0, most, 2 * most)) == ""
    assert _waited(monkeypatch, _Counter(0, 4), _Counter(0, most, 2 * most, 2 * most + 1)) != ""
    assert _waited(monkeypatch, _Counter(0), _Counter(0), without=8) == ""


def test_ksm_that_completes_no_scan_is_a_limit_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three times the patience, by the clock, since the last scan; one that scans has more time."""
    seconds = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))
    with pytest.raises(LimitReached, match="no scan of mergeable memory for 16 s"):
        _waited(monkeypatch, _Counter(0), _Counter(5))
    last = movement._VAIN_SCANS - 1
    with pytest.raises(LimitReached):
        _waited(monkeypatch, _Counter(0), _Counter(*range(last)))
    assert next(seconds) > 2 * last + 16
    slowly = [number // 6 for number in range(999)]
    assert _waited(monkeypatch, _Counter(0), _Counter(*slowly)).startswith("KSM merged 0 of 8 equal")


def test_advice_that_is_not_taken_has_the_same_reason_in_each_run() -> None:
    """Its sentence names the advice and the errno, and no address."""
    with Region.anonymous(PAGE_BYTES) as region:
        made = Subject(Trial(ANON, 0), region, cast("Userfaultfd", None), frozenset())
        with pytest.raises(Skip) as skip:
            made.advise(9999, "MADV_NONE", 0)
    assert str(skip.value) == "The kernel does not take MADV_NONE for memory of this type: Invalid argument."


def test_samples_have_both_ends_and_neighbours() -> None:
    """Pages of both kinds are written, also on kernels whose pagemap shows no protection."""
    chosen = samples(frozenset(range(512)) - {ONE})
    assert {0, ONE - 1, ONE + 1, 511} <= set(chosen)
    assert {page % 2 for page in chosen} == {0, 1}


def _nothing(subject: Subject) -> Expected:
    return subject.expect()


def _release_silently(subject: Subject) -> Expected:
    release(subject.uffd, subject.region, 7)
    return subject.expect()


def _protect_the_released(subject: Subject) -> Expected:
    subject.uffd.write_protect(subject.region.at(RELEASED), subject.region.page_bytes)
    return subject.expect()


def _lose_content(subject: Subject) -> Expected:
    subject.region.store(RELEASED * subject.region.page_bytes, b"lost")
    return subject.expect()


def _is_protected_and_expected_open(subject: Subject) -> Expected:
    return subject.expect(open_={ONE})


def _run(memory: str, act: Callable[[Subject], Expected]) -> Result:
    way = replace(WAYS[0], act=act, recipe=None, before=None, needs=(), features=0)
    cell = replace(_cell("cold-all", "own", memory), way=way)
    test: FeatureTest = cells._test(cell)
    return run_isolated(test)


@pytest.mark.parametrize("memory", ["anon", "shmem", "file-private"])
@pytest.mark.parametrize(
    ("act", "status", "words"),
    [
        (_nothing, "PASS", ""),
        (_release_silently, "FAIL", "1 of 15 protected pages are not protected after it: 7."),
        (_protect_the_released, "FAIL", "1 pages that were not protected are protected after it: 5."),
        (_lose_content, "FAIL", "does not have the content"),
        (_is_protected_and_expected_open, "FAIL", "1 pages that were not protected are protected after it"),
    ],
)
def test_a_cell_sees_what_a_way_breaks(
    memory: str, act: Callable[[Subject], Expected], status: str, words: str
) -> None:
    """Protection lost, protection gained and content lost are each a FAIL with page and cause."""
    if not probe_userfaultfd().write_protect:
        pytest.skip(probe_userfaultfd().reason or "This kernel has no write protection.")
    if memory == "file-private" and not scan_supported():
        pytest.skip("This kernel has no PAGEMAP_SCAN.")
    result = _run(memory, act)
    assert result.status == status, result
    assert words in result.reason


def test_an_endless_guard_is_told_from_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MADV_GUARD_INSTALL that keeps a processor busy is the known issue; one that sleeps is not.

    Other threads of the process are busy meanwhile.
    """

    def busy(*_: Any) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            pass

    def slow(_address: int, _length: int, advice: int) -> None:
        if advice == libc.MADV_GUARD_INSTALL:
            threading.Thread(target=busy, daemon=True).start()
            time.sleep(0.6)
            raise OSError(22, "not taken")

    if not probe_userfaultfd().write_protect:
        pytest.skip("This kernel has no write protection.")
    monkeypatch.setattr(libc, "madvise", busy)
    found = run_isolated(cells._test(replace(_cell("guard-one", "own", "shmem"))))
    assert (found.status, "kept a processor busy" in found.reason) == ("XFAIL", True), found
    monkeypatch.setattr(libc, "madvise", slow)
    assert run_isolated(cells._test(_cell("guard-one", "own", "shmem"))).status == "SKIP"


class _LookedAt:
    """A call that has used so many seconds of its processor's time at each look, and then returns."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)
        self.processor_seconds = 0.0

    def waits(self, _seconds: float) -> bool:
        if self._seconds:
            self.processor_seconds = self._seconds.pop(0)
            return True
        return False


def test_time_in_which_a_virtual_processor_stood_still_is_no_spin() -> None:
    """The clock of a thread runs on while a host does not run its processor, and only looks count."""
    spinning = [look / 100 for look in range(1, 14)]
    assert zap._spins(_LookedAt(*spinning))  # type: ignore[arg-type]
    assert not zap._spins(_LookedAt(*spinning[:8]))  # type: ignore[arg-type]
    assert not zap._spins(_LookedAt(3.0, 6.0, 6.0, 6.0))  # type: ignore[arg-type]
    assert not zap._spins(_LookedAt(*[0.0] * 50))  # type: ignore[arg-type]


def test_a_guard_leaves_the_threads_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is made on one processor, and both threads may use all of them afterwards."""
    seen = []
    processors = os.sched_getaffinity(0)

    def took(*_: Any) -> None:
        seen.append(os.sched_getaffinity(0))
        raise OSError(22, "not taken")

    monkeypatch.setattr(libc, "madvise", took)
    error = zap._install_guard(0, 0, processors)
    assert str(error) == "[Errno 22] not taken"
    assert (seen, os.sched_getaffinity(0)) == ([{max(processors)}], processors)


_PROGRAMS = [cell for cell in _CELLS if cell.test and not reproducer.missing(cell)]


def test_reproducers_are_short_and_most_cells_have_one() -> None:
    """Half of the cells can be written in C, in at most 60 lines; the others say why not."""
    assert len(_PROGRAMS) > 300
    for cell in _PROGRAMS:
        lines = reproducer.program(cell).splitlines()
        assert len(lines) <= reproducer.MOST_LINES
        assert all(len(line) <= 120 for line in lines)
    assert "more than 60 lines" in reproducer.missing(_cell("fork", "own", "anon"))


@pytest.mark.parametrize("way", sorted({cell.way.name for cell in _PROGRAMS}))
def test_reproducers_compile_without_warnings(way: str, tmp_path: Path) -> None:
    """One of each way, with the warnings that kernel developers have on."""
    if shutil.which("cc") is None:
        pytest.skip("This machine has no C compiler.")
    cell = next(cell for cell in _PROGRAMS if cell.way.name == way)
    (tmp_path / "reproducer.c").write_text(reproducer.program(cell))
    command = ["cc", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "reproducer"), "reproducer.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("statement", "code"), [("for (;;);", 1), ("for (;;) pause();", 2)])
def test_a_reproducer_blames_a_call_that_uses_the_processor_alone(
    statement: str, code: int, tmp_path: Path
) -> None:
    """A call that waits, as on a machine that gives it no processor, is no defect of the kernel."""
    if shutil.which("cc") is None or not probe_userfaultfd().write_protect:
        pytest.skip("This machine has no C compiler or no write protection.")
    text = reproducer.program(_cell("cold-one", "own", "anon"))
    text = text.replace("alarm(120);", f"alarm(5); {statement}").replace(
        "{{0, 0}, {5, 0}}", "{{0, 0}, {0, 90000}}"
    )
    (tmp_path / "reproducer.c").write_text(text)
    subprocess.run(["cc", "-o", "reproducer", "reproducer.c"], cwd=tmp_path, check=True, timeout=60)
    done = subprocess.run([tmp_path / "reproducer"], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (code, b"the call does not end\n" if code == 1 else b"")


def test_pages_are_listed_as_the_end_of_a_sentence() -> None:
    """A list that is cut has three points, and no fourth."""
    assert subject._listed(frozenset({3, 1})) == "1, 3."
    cut = subject._listed(frozenset(range(subject._MOST_LISTED + 1)))
    assert cut.endswith(f"{subject._MOST_LISTED - 1}, ...")


def test_a_reproducer_is_printed_for_the_first_failed_cell() -> None:
    """As comments, so that the output remains KTAP; the others are named."""
    one, two = "matrix.anon-thp.cold-one-zero-filled", "matrix.anon.cold-all-zero"
    text = reproducer.comments(["api.any.other", one, two])
    assert all(line.startswith("# ") for line in text.splitlines())
    assert text.startswith(f"# reproducer of {one} in C:\n# /* {one}:\n#  * MADV_COLD of one page")
    assert text.endswith(f"# for that of {two}: --reproducer {two}\n")
    assert reproducer.comments(["api.any.other"]) == ""


def test_a_release_that_releases_a_whole_huge_page_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the huge zero page did until 42b2af2c9b7e: by pagemap, and by writes where that shows nothing."""
    if not probe_userfaultfd().write_protect:
        pytest.skip(probe_userfaultfd().reason or "This kernel has no write protection.")
    right = Userfaultfd.write_protect

    def wrong(self: Userfaultfd, address: int, length: int, *, protect: bool = True, **more: Any) -> None:
        if not protect:
            address, length = address // HUGE_BYTES * HUGE_BYTES, HUGE_BYTES
        right(self, address, length, protect=protect, **more)

    test = cells._test(_cell("release-one", "huge-zero", "anon-thp"))
    whole = run_isolated(test)
    if whole.status == "SKIP":
        pytest.skip(whole.reason)
    assert whole.status == "PASS", whole
    monkeypatch.setattr(Userfaultfd, "write_protect", wrong)
    seen = run_isolated(test)
    assert (seen.status, "511 of 511 protected pages" in seen.reason) == ("FAIL", True), seen
    monkeypatch.setattr(subject, "pagemap_has_bit", lambda: False)
    blind = run_isolated(test)
    assert (blind.status, "completed without an event" in blind.reason) == ("FAIL", True), blind
