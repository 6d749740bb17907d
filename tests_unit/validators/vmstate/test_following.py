"""Contract: work on pages as they are read finds what later work does, and no file ends a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.codes import Code
from harness.errors import SetupBroken
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.native_core import NUMPY, built_core, use_core
from tests_unit.support.synthetic_stream import Guest, Writer
from tests_unit.support.tiny_stream import PAGE, data, ram_part, ram_start
from validators.native import library
from validators.native.library import CoreFile, Numbers, native_core
from validators.vmstate.digests import digest_pages, read_digests
from validators.vmstate.pages import PageReader
from validators.vmstate.stream import open_source, read_index
from validators.vmstate.stream import records as stream_records
from validators.vmstate.stream.following import Follower
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Block
from validators.vmstate.stream.source import FileSource

_PAGES = 300


@pytest.fixture(autouse=True)
def _core(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The native core, and windows so small that a file has many."""
    core = built_core()
    if core is None:
        pytest.skip("There is no C compiler here.")
    monkeypatch.setattr(stream_records, "WINDOW_BYTES", 16 * PAGE)
    with use_core(str(core)):
        yield


def _work(seen: list[int]) -> Callable[..., Any]:
    def work(block: Block, file: CoreFile, pages: Numbers, places: Numbers) -> tuple[list[int], list[bool]]:
        core = native_core()
        assert core is not None
        seen.extend(pages.tolist())
        return pages.tolist(), core.nonzero(file, places, block.page_size).tolist()

    return work


def _stream(*numbers: int) -> bytes:
    records = b"".join(
        data(number, bytes([number % 255 + 1]), "" if at else "a") for at, number in enumerate(numbers)
    )
    return tiny.HEADER + ram_start(("a", _PAGES * PAGE, b"")) + ram_part(records) + tiny.end()


def _found(path: Path, work: Callable[..., Any]) -> tuple[list[int], list[int]]:
    """The pages in the order of the results, and those that were found before the index was there."""
    follower = Follower({"work": work})
    with open_source(path) as source:
        index = read_index(source, follower=follower)
        kept = follower._results.get(("work", 0), [])
        early = [page for _, (pages, _) in kept for page in pages]
        reader = PageReader(source, index, follower)
        results = list(reader.each_by_core(index.blocks[0], work, "work"))
    assert all(all(nonzero) for _, nonzero in results)
    return [page for pages, _ in results for page in pages], early


def test_each_page_is_worked_on_once(tmp_path: Path) -> None:
    """Nearly all are followed; the first record, which names the RAMBlock, is read later."""
    path, seen = tmp_path / "file", list[int]()
    path.write_bytes(_stream(*range(_PAGES)))
    found, early = _found(path, _work(seen))
    assert sorted(found) == sorted(seen) == list(range(_PAGES))
    assert len(early) > _PAGES * 0.8


def test_results_are_thrown_away_if_a_page_comes_twice(tmp_path: Path) -> None:
    """The last record of a page counts, and a thread may have had an earlier one."""
    path, seen = tmp_path / "file", list[int]()
    path.write_bytes(_stream(*range(_PAGES), 7))
    found, early = _found(path, _work(seen))
    assert sorted(found) == list(range(_PAGES))
    assert not early
    assert seen.count(9) == 2


def test_an_error_in_a_thread_is_raised_by_who_asks(tmp_path: Path) -> None:
    """Then the same work is done once more, where its error has an owner."""
    path = tmp_path / "file"
    path.write_bytes(_stream(*range(_PAGES)))

    def work(_block: Block, _file: CoreFile, pages: Numbers, _places: Numbers) -> None:
        raise ZeroDivisionError(f"{len(pages)}")

    with pytest.raises(ZeroDivisionError, match=str(_PAGES)):
        _found(path, work)


def test_digests_are_those_of_all_pages(tmp_path: Path) -> None:
    """Followed or not: a page has one digest."""
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest(counts=(90, 40), steps=(200, 60), ram_pages=400)).stream())
    with open_source(path) as source:
        _, early = read_digests(source)
        index = read_index(source)
        late = [digest_pages(PageReader(source, index), block) for block in index.blocks]
    assert all((one == other).all() for one, other in zip(early, late, strict=True))


@pytest.mark.parametrize("present", [False, True])
def test_a_mapped_file_that_shrinks_is_an_error(tmp_path: Path, present: bool) -> None:
    """Its pages are gone from the mapping, and an access would end the process by SIGBUS."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(64 * PAGE))
    core, places = native_core(), np.arange(64) * PAGE
    assert core is not None
    descriptor = os.open(path, os.O_RDONLY)
    source = FileSource(descriptor, path)
    file = source.core_file(present=present)
    assert core.nonzero(file, places, PAGE).all()
    os.truncate(path, 20 * PAGE)
    for work in (
        lambda: core.nonzero(file, places, PAGE),
        lambda: core.agent(file, places, PAGE),
        lambda: core.differing(file, places, np.arange(64), PAGE, descriptor),
    ):
        with pytest.raises(library.PageNotRead) as caught:
            work()
        assert caught.value.number <= 20
    os.close(descriptor)


def test_a_window_that_cannot_be_read_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file shrinks between the kernel's word that its bytes are there and the walk over them."""
    path = tmp_path / "file"
    path.write_bytes(_stream(*range(_PAGES)))
    view = FileSource.view

    def shrinking(self: FileSource, offset: int, length: int) -> memoryview:
        shown = view(self, offset, length)
        if offset > 100 * PAGE:
            os.truncate(path, 100 * PAGE)
        return shown

    monkeypatch.setattr(FileSource, "view", shrinking)
    index = _index_of_changed(path)
    assert index.damage is not None
    assert index.damage.code is Code.TRUNCATED_SHRANK


_SHRINKING = """
import os, sys
import numpy as np
from pathlib import Path
from validators.native.library import native_core
from validators.vmstate.stream.source import FileSource
assert native_core() is not None
source = FileSource(os.open(sys.argv[1], os.O_RDONLY), Path(sys.argv[1]))
view = source.view(0, source.size)
os.truncate(sys.argv[1], 0)
print(sum(view))
"""


def test_python_does_not_go_on_with_a_window_that_is_gone(tmp_path: Path) -> None:
    """It reads some words of the mapping itself; the process says why it ends, and is no crash."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(PAGE))
    ended = subprocess.run(
        [sys.executable, "-c", _SHRINKING, str(path)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("snapproof: A file became shorter while it was read")


def test_the_stack_may_be_small(tmp_path: Path) -> None:
    """The buffers of the core are not on it."""
    path = tmp_path / "file"
    path.write_bytes(_stream(*range(_PAGES)))
    command = 'ulimit -s 512 && exec "$0" -m snapproof.cli.command check "$1"'
    ended = subprocess.run(
        ["sh", "-c", command, sys.executable, str(path)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode in (0, 1), ended.stderr) == (True, "")


def test_a_page_of_the_agent_that_is_gone(tmp_path: Path) -> None:
    """Special pages are read once more, when the file may have become shorter."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE + 7))
    descriptor = os.open(path, os.O_RDONLY)
    source = FileSource(descriptor, path)
    assert len(source.read_whole(7, PAGE)) == PAGE
    os.truncate(path, PAGE)
    with pytest.raises(StreamError) as caught:
        source.read_whole(7, PAGE)
    os.close(descriptor)
    assert caught.value.code is Code.TRUNCATED_SHRANK


def test_without_the_core_nothing_is_read_in_a_mapping(tmp_path: Path) -> None:
    """Nothing could go on behind a SIGBUS there."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(PAGE))
    with use_core(NUMPY):
        descriptor = os.open(path, os.O_RDONLY)
        view = FileSource(descriptor, path).view(0, PAGE)
        os.truncate(path, 0)
        assert any(view)
        os.close(descriptor)


def _index_of_changed(path: Path) -> Any:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_index(FileSource(descriptor, path))
    finally:
        os.close(descriptor)


def test_a_disk_that_failed_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has its length, and can be read: that is no verdict."""
    path = tmp_path / "file"
    path.write_bytes(_stream(*range(_PAGES)))
    monkeypatch.setattr(library.Core, "walk", lambda *_: (library.STOP_UNREADABLE, 0))
    with open_source(path) as source, pytest.raises(SetupBroken, match="could not be read at offset"):
        read_index(source)
