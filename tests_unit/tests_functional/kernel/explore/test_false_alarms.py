"""Lists on a right kernel whose settings, size or version once looked like a defect."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.userfaultfd import Feature, UserfaultfdError, libc, probe_userfaultfd
from tests_functional.kernel import needs
from tests_functional.kernel.explore import acts, worker
from tests_functional.kernel.explore.c_program import program
from tests_functional.kernel.explore.executor import Record, Setting
from tests_functional.kernel.explore.memory import Memory, Page
from tests_functional.kernel.explore.session import CONTENT, HANG, SPIN, Session, Wrong
from tests_functional.kernel.explore.steps import MemoryList, Monitor, Step
from tests_functional.kernel.explore.worker import Patience, Worker

_NEEDED = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM | Feature.WP_UNPOPULATED
_userfaultfd = pytest.mark.skipif(
    not probe_userfaultfd().opened_by or bool(needs.missing_features(int(_NEEDED))),
    reason="The kernel does not offer this user all that lists need.",
)
_ALL = {"on": "anon", "first": 0, "count": 16}
_SHARED = {"on": "shmem", "first": 0, "count": 16}
_QUICK = Patience(waits=0.75, spins=0.5, most=4)
_THP = Path("/sys/kernel/mm/transparent_hugepage")


def _run(*steps: Step, patience: Patience = _QUICK) -> Record:
    with Worker(Setting(), patience) as one:
        return one.run(MemoryList(Monitor(), steps))


@pytest.fixture
def memory() -> Iterator[Memory]:
    """The memory of a list."""
    made = Memory(Monitor())
    yield made
    made.close()


def _session(memory: Memory) -> Session:
    """What an act needs of a session: calls succeed, or raise."""
    fake = SimpleNamespace(
        memory=memory,
        reached=set(),
        call=lambda what, _allowed=(): what() and 0,
        pages=lambda given: [
            page
            for page in memory.pages(given["on"])
            if given["first"] <= page.number < given["first"] + given["count"]
        ],
        turn=lambda *_: None,
    )
    return cast(Session, fake)


def _flags(page: Page) -> list[str]:
    """The VmFlags of a page's mapping (proc(5), smaps)."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(word, 16) for word in first.split("-"))
            inside = low <= page.address < high
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError(f"No mapping has {page.address:#x}.")


@pytest.mark.parametrize("access", ["read", "none"])
def test_hole_where_writing_was_taken_away(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, access: str
) -> None:
    """Linux before 6.7 gives EACCES for it, so it is not asked for."""
    session = _session(memory)
    acts.ACTS["mprotect"](session, {**_SHARED, "first": 2, "count": 3, "access": access})
    asked: list[int] = []

    def madvise(address: int, length: int, _advice: int) -> None:
        asked.extend(range(address, address + length, 4096))

    monkeypatch.setattr(libc, "madvise", madvise)
    acts.ACTS["remove"](session, _SHARED)
    pages = memory.pages("shmem")
    assert asked == [page.address for page in pages if page.number not in (2, 3, 4)]


@pytest.mark.skipif(not _THP.is_dir(), reason="The kernel has no transparent huge pages.")
def test_small_memory_forbids_huge_pages(memory: Memory) -> None:
    """Whatever the host's settings are, shared memory and what is mapped anew have small pages."""
    for name, small in (("anon", True), ("shmem", True), ("thp", False)):
        assert ("nh" in _flags(memory.pages(name)[0])) is small, name
    for name, small in (("anon", True), ("thp", False)):
        acts.ACTS["mmap"](_session(memory), {"on": name, "first": 4, "count": 2})
        assert ("nh" in _flags(memory.pages(name)[4])) is small, name


@pytest.mark.parametrize(("on", "times"), [("anon", 2), ("shmem", 1), ("thp", 0)])
def test_c_program_forbids_huge_pages(on: str, times: int) -> None:
    """As the list does: where memory is made, and where it is mapped anew."""
    kind = "mmap" if on == "anon" else "read"
    steps = MemoryList(Monitor(), (Step(kind, {"on": on, "first": 0, "count": 1}),))
    record = {"code": CONTENT, "sentence": "x", "fields": {"kind": on, "page": 0, "allowed": [0]}}
    text, reason = program(steps, record)
    assert not reason
    assert text.count("MADV_NOHUGEPAGE") == times


@pytest.mark.parametrize(("code", "wrong"), [(errno.EAGAIN, False), (errno.EEXIST, True)])
def test_fill_that_is_to_be_tried_again(memory: Memory, code: int, wrong: bool) -> None:
    """EEXIST says that a page is there, which the model knows; EAGAIN says nothing about it."""
    pages = memory.pages("anon")[:2]

    def call() -> int:
        raise UserfaultfdError(code, "UFFDIO_ZEROPAGE", output=4096)

    before = pages[1].states
    if wrong:
        with pytest.raises(Wrong, match="refused to fill page 1 of anon"):
            acts._filled(_session(memory), pages, 0, False, call)
    else:
        acts._filled(_session(memory), pages, 0, False, call)
        assert all(state.there for state in pages[0].states)
        assert pages[1].states == before


def _busy_in_kernel(seconds: float) -> acts.Act:
    def act(_session: Session, _given: object) -> None:
        descriptor = os.open("/dev/zero", os.O_RDONLY)
        buffer = bytearray(64 << 20)
        end = os.times().system + seconds
        while os.times().system < end:
            os.readv(descriptor, [buffer])
        os.close(descriptor)

    return act


@_userfaultfd
def test_compaction_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is synchronous, and long where there is much memory; the step after it is judged as ever."""
    monkeypatch.setitem(acts.ACTS, "compact", _busy_in_kernel(1.2))
    patience = Patience(waits=0.75, spins=0.5, most=60)
    record = _run(Step("read", _ALL), Step("compact", {}), patience=patience)
    assert (record.code, record.error) == ("", False), record.sentence
    monkeypatch.setitem(acts.ACTS, "guard", _busy_in_kernel(60.0))
    record = _run(Step("read", _ALL), Step("compact", {}), Step("guard", _ALL), patience=patience)
    assert (record.code, record.at) == (SPIN, 2), record.sentence


_WAITS = {"state": "S", "user": 0, "system": 0, "wchan": "handle_userfault"}


@_userfaultfd
@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({"state": "S", "wchan": "do_sys_poll"}, HANG),
        ({"state": "D", "wchan": "handle_userfault"}, HANG),
        ({"state": "D", "wchan": "folio_wait_bit_common"}, ""),
        ({"state": "R", "wchan": "0"}, ""),
    ],
)
def test_thread_that_waits_for_a_disk_may_still_answer(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], code: str
) -> None:
    """A wait for a page is a hang only if no other thread can end it."""
    monkeypatch.setattr(Worker, "_threads", lambda _: [_WAITS, {**_WAITS, **other}])
    monkeypatch.setitem(acts.ACTS, "guard", lambda *_: time.sleep(60))
    record = _run(Step("read", _ALL), Step("guard", _ALL))
    assert record.code == code, record.sentence


@_userfaultfd
@pytest.mark.parametrize(("wchan", "times"), [("0", 1), ("?", 1), ("do_sys_poll", 0)])
def test_places_that_the_kernel_hides_are_said_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wchan: str, times: int
) -> None:
    """Without them no hang can be told."""
    worker._say_no_places.cache_clear()
    monkeypatch.setattr(Worker, "_threads", lambda _: [{**_WAITS, "wchan": wchan}])
    monkeypatch.setitem(acts.ACTS, "guard", lambda *_: time.sleep(60))
    with Worker(Setting(), Patience(0.5, 0.5, 1.2)) as one:
        for _ in range(2):
            assert one.run(MemoryList(Monitor(), (Step("guard", _ALL),))).error
    assert capfd.readouterr().err.count("does not say where threads sleep") == times


def test_place_that_cannot_be_read(tmp_path: Path) -> None:
    """It does not hide the thread."""
    assert worker._place(tmp_path) == "?"
    (tmp_path / "wchan").write_text("do_sys_poll")
    assert worker._place(tmp_path) == "do_sys_poll"
