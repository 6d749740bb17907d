"""Contract: work spread over processes gives what one process gives, and many bad pages are all counted."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.codes import Code
from harness.errors import UsageError
from tests_unit.support.page_digest import nh
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer, write_golden
from validators import verdict
from validators.judge import check_file
from validators.verdict import CheckResult, Verdict
from validators.vmstate import pages, workers
from validators.vmstate.digests import read_digests
from validators.vmstate.pages import PageReader
from validators.vmstate.stream import open_source, read_index
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.source import FileSource


@pytest.fixture
def many_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Spread even the smallest work over three processes, in batches of a few pages."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(pages, "_WORTH_PROCESS", 1)
    monkeypatch.setattr(pages, "BATCH_BYTES", 5 * PAGE)
    yield
    # No copy is left behind.
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _checks(found: Verdict) -> list[CheckResult]:
    return list(found.checks)


@pytest.mark.usefixtures("many_processes")
def test_results_come_in_order() -> None:
    """Results are in the order of the items, and all processes share the work."""
    results = list(workers.spread(range(50), lambda item: (item, os.getpid()), 1))
    assert [item for item, _ in results] == list(range(50))
    assert len({pid for _, pid in results}) == 3


@pytest.mark.usefixtures("many_processes")
def test_copy_that_dies_costs_only_time() -> None:
    """The original does the work of a copy that died."""
    original = os.getpid()

    def work(item: int) -> int:
        if os.getpid() != original and item > 20:
            os._exit(1)
        return item * 2

    assert list(workers.spread(range(50), work, 1)) == [item * 2 for item in range(50)]


@pytest.mark.usefixtures("many_processes")
@pytest.mark.parametrize("call", ["fork", "pipe"])
def test_copies_that_cannot_be_made_cost_only_time(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """At a limit of processes or descriptors this process does all of the work, and takes signals again."""
    open_before = len(list(Path("/proc/self/fd").iterdir()))

    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, call, refused)
    assert list(workers.spread(range(50), lambda item: item * 2, 1)) == [item * 2 for item in range(50)]
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


@pytest.mark.usefixtures("many_processes")
def test_failure_in_a_copy_is_raised_here() -> None:
    """An exception in a copy comes out as itself, after the results before it."""

    def work(item: int) -> int:
        if item == 31:
            raise StreamError(Code.TRUNCATED_SHRANK, "It is cut.", 31)
        return item

    results: list[int] = []
    with pytest.raises(StreamError, match="It is cut"):
        results.extend(workers.spread(range(50), work, 1))
    assert results == list(range(31))


@pytest.mark.usefixtures("many_processes")
def test_leaving_early_ends_the_copies() -> None:
    """A caller that stops early ends the copies."""
    results = workers.spread([4096] * 100_000, bytes, 1)
    assert next(results) == bytes(4096)
    assert isinstance(results, Generator)
    results.close()


@pytest.mark.parametrize("mapped", [False, True])
def test_verdict_is_the_same_in_any_number_of_processes(
    tmp_path: Path, request: pytest.FixtureRequest, mapped: bool
) -> None:
    """All oracles say the same, of a right and of a wrong file whose pages are in any order."""
    guest = Guest()
    order = np.random.default_rng(5).permutation(guest.ram_pages).tolist()
    writer = Writer(guest, order=order, mapped=mapped)
    golden = write_golden(tmp_path / "golden", writer)
    path, wrong = tmp_path / "file", tmp_path / "wrong"
    path.write_bytes(writer.stream())
    for index in range(0, 60, 3):
        guest.ram[guest.places[0, index], 77] ^= np.uint64(4)
    wrong.write_bytes(writer.stream())
    alone = [_checks(check_file(file, golden=golden)) for file in (path, wrong)]
    request.getfixturevalue("many_processes")
    together = [_checks(check_file(file, golden=golden)) for file in (path, wrong)]
    assert together == alone
    assert not any(check.total for check in alone[0])
    assert {check.total for check in alone[1] if check.name in ("golden", "write-order")} == {20}


@pytest.mark.usefixtures("many_processes")
def test_digests_are_those_of_the_pages(tmp_path: Path) -> None:
    """Each digest is NH of its page, zero pages included."""
    writer = Writer(Guest())
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    with open_source(path) as source:
        _, digests = read_digests(source)
    for found, (_, ram) in zip(digests, writer.blocks(), strict=True):
        assert found.tolist() == [nh(page.tobytes()) for page in ram]


def test_bad_pages_beyond_the_limit_are_counted_and_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bad pages are counted and on the map; the first ones get a sentence."""
    monkeypatch.setattr(verdict, "VIOLATION_LIMIT", 3)
    guest = Guest()
    writer = Writer(guest)
    golden = write_golden(tmp_path / "golden", writer)
    wrong = {guest.places[0, index] for index in range(0, 60, 3)}
    for page in wrong:
        guest.ram[page, 77] ^= np.uint64(4)
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    found = check_file(path, golden=golden)
    for name in ("write-order", "golden"):
        check = found.check(name)
        assert check is not None
        assert check.total == len(wrong)
        assert len(check.violations) == 3
        assert {offset // PAGE for offset in check.bad_pages["pc.ram"]} == wrong


def _digests_by_page(path: Path) -> list[np.ndarray[tuple[int], np.dtype[np.uint64]]]:
    with open_source(path) as source:
        return read_digests(source)[1]


def test_kernels_that_cannot_populate_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.14 pages are copied instead of mapped; what is seen is the same."""
    writer = Writer(Guest())
    golden = write_golden(tmp_path / "golden", writer)
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    mapped, judged = _digests_by_page(path), _checks(check_file(path, golden=golden))
    monkeypatch.setattr(FileSource, "_populate", lambda *_: False)
    assert all((one == other).all() for one, other in zip(mapped, _digests_by_page(path), strict=True))
    assert _checks(check_file(path, golden=golden)) == judged


def test_regions_of_a_file_together_hold_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than a region is read region by region, each page once."""
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest()).stream())
    whole = _digests_by_page(path)
    monkeypatch.setattr(pages, "_REGION_BYTES", 7 * PAGE + 3)
    monkeypatch.setattr(pages, "_MAX_REGIONS", 1 << 20)
    seen = []
    with open_source(path) as source:
        reader = PageReader(source, read_index(source))
        block = reader.index.blocks[0]
        for batch in reader.batches(block):
            seen += batch.pages.tolist()
        assert sorted(seen) == np.flatnonzero(block.page_source > 0).tolist()
    assert all((one == other).all() for one, other in zip(whole, _digests_by_page(path), strict=True))


def test_places_of_bad_pages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of places, pages are counted only."""
    monkeypatch.setattr(verdict, "BAD_PAGE_LIMIT", 10)
    tally = verdict.Tally("golden", "")
    tally.count("a", list(range(0, 8 * PAGE, PAGE)))
    tally.count("b", np.arange(8) * PAGE)
    result = tally.result()
    assert result.total == 16
    assert [len(places) for places in result.bad_pages.values()] == [8, 2]


def test_file_that_shrinks_meanwhile_is_a_violation(tmp_path: Path) -> None:
    """Pages that are gone when they are to be read end the reading, and no verdict on the file holds."""
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest()).stream())
    with pytest.raises(UsageError, match="changed while it was read"), open_source(path) as source:
        reader = PageReader(source, read_index(source))
        os.truncate(path, 100_000)
        with pytest.raises(StreamError, match="shorter"):
            list(reader.batches(reader.index.blocks[0]))
        with pytest.raises(StreamError, match="shrank"):
            source.window(0, 100)
