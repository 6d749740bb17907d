"""Contract: the native core finds in any file, right or damaged, exactly what numpy finds."""

from __future__ import annotations

import ctypes
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import SnapproofError
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.native_core import NUMPY, built_core, use_core
from tests_unit.support.synthetic_stream import Guest, Writer, write_golden
from tests_unit.support.tiny_stream import PAGE, data, ram_part, ram_start, zero
from validators.faults.files import CATALOGUE, apply_fault
from validators.judge import check_file
from validators.native import library, place
from validators.vmstate.digests import digest_pages
from validators.vmstate.pages import PageReader
from validators.vmstate.stream import PipeSource, SnapshotIndex, open_source, read_index
from validators.vmstate.stream import format as fmt

_SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True, scope="module")
def _core() -> None:
    """Leave the choice to each test here, instead of running each twice."""


@pytest.fixture(scope="module")
def both() -> tuple[str, str]:
    """The two ways to read a file."""
    core = built_core()
    if core is None:
        pytest.skip("There is no C compiler here.")
    return NUMPY, str(core)


def _of_index(index: SnapshotIndex) -> dict[str, Any]:
    found = index.duplicates
    return {
        "blocks": [(block.idstr, block.page_source.tolist()) for block in index.blocks],
        # The order of anomalies of different checks is the reader's own affair.
        "anomalies": sorted(index.anomalies, key=lambda anomaly: anomaly.check),
        "counts": dict(index.anomaly_counts),
        "damage": index.damage,
        "duplicates": [
            column.tolist()
            for column in (found.block, found.page, found.earlier, found.later, found.same_section)
        ],
        "records": {kind: count for kind, count in index.records.items() if count},
        "end": index.end,
    }


def _read(raw: bytes, path: Path) -> list[Any]:
    """What the reader finds in a file, and in the same from a pipe; and the digests of all pages."""
    path.write_bytes(raw)
    found: list[Any] = []
    try:
        found.append(_of_index(read_index(PipeSource(io.BytesIO(raw)))))
        with open_source(path) as source:
            index = read_index(source)
            found.append(_of_index(index))
            found += [digest_pages(PageReader(source, index), block).tolist() for block in index.blocks]
    except SnapproofError as error:
        found.append(error.sentence)
    return found


def _require_same(raw: bytes, path: Path, both: tuple[str, str]) -> list[Any]:
    results = []
    for choice in both:
        with use_core(choice):
            results.append(_read(raw, path))
    assert results[0] == results[1]
    return results[0]


_BLOCKS = (("a", 40 * PAGE, b""), ("bb", 12 * PAGE, b""))


_PAGES = st.one_of(st.integers(0, 45), st.sampled_from([39, 40, 1 << 40, (1 << 52) - 1]))
_NAMES = st.sampled_from(["", "", "", "a", "bb", "c", "a\x01"])
_KINDS = st.sampled_from(["data", "zero", "run", "zeros", "fill", "flush", "flags"])
_RECORDS = st.lists(st.tuples(_KINDS, _PAGES, _NAMES, st.integers(0, 255)), max_size=12)
_OTHER_FLAGS = (0x04, 0x10, 0x40, 0x18, 0x2A, 0x20, 0)


def _record(kind: str, page: int, block: str, number: int) -> bytes:
    """Records of a section: mostly what QEMU writes, with everything that can be wrong in between."""
    match kind:
        case "data":
            return data(page, bytes([number]), block)
        case "zero":
            return zero(page, block)
        case "fill":
            return zero(page, block, number)
        case "run":
            return b"".join(data(page % 40 + at, b"r") for at in range(number % 90))
        case "zeros":
            return b"".join(zero(page % 40 + at) for at in range(number % 90))
        case "flush":
            return struct.pack(">Q", fmt.FLAG_MULTIFD_FLUSH)
    return struct.pack(">Q", _OTHER_FLAGS[number % len(_OTHER_FLAGS)])


@given(sections=st.lists(_RECORDS, min_size=1, max_size=3), cut=st.integers(0, 300), first=st.booleans())
@_SETTINGS
def test_records_of_every_kind(
    sections: list[list[tuple[str, int, str, int]]],
    cut: int,
    first: bool,
    tmp_path: Path,
    both: tuple[str, str],
) -> None:
    """Names, runs, pages twice and outside, bytes of fill, flags and cut ends."""
    parts = [b"".join(_record(*one) for one in section) for section in sections]
    named = [data(0, b"first", "a") if first else b"", *parts]
    raw = tiny.HEADER + ram_start(*_BLOCKS) + b"".join(map(ram_part, named)) + tiny.end()
    _require_same(raw[: len(raw) - cut], tmp_path / "file", both)


def _synthetic(mapped: bool) -> bytes:
    guest = Guest(counts=(30, 20), steps=(70, 45), ram_pages=231)
    return Writer(guest, mapped=mapped, rom=b"\xaa" * 4096).stream()


@pytest.fixture(scope="module", params=["stream", "mapped-ram"])
def whole(request: pytest.FixtureRequest) -> bytes:
    """An undamaged file."""
    return _synthetic(request.param == "mapped-ram")


@given(places=st.data())
@_SETTINGS
def test_streams_with_any_damage(
    places: st.DataObject, whole: bytes, tmp_path: Path, both: tuple[str, str]
) -> None:
    """Bytes changed, lost and put in, anywhere, most of them where there is a record's header."""
    raw = bytearray(whole)
    for _ in range(places.draw(st.integers(1, 4))):
        at = places.draw(st.integers(0, len(raw) - 1))
        if places.draw(st.booleans()):
            at = max(0, raw.find(struct.pack(">Q", 0x28)[-2:], at))
        change = places.draw(st.sampled_from(["byte", "word", "cut", "lose", "insert"]))
        if change == "byte":
            raw[at] = places.draw(st.integers(0, 255))
        elif change == "word":
            raw[at : at + 8] = places.draw(st.binary(min_size=8, max_size=8))
        elif change == "cut":
            del raw[at:]
        elif change == "lose":
            del raw[at : at + places.draw(st.integers(1, 5000))]
        else:
            raw[at:at] = places.draw(st.binary(max_size=20))
        if not raw:
            return
    _require_same(bytes(raw), tmp_path / "file", both)


def _verdicts(path: Path, golden: Path) -> Iterator[Any]:
    for image in (golden, None):
        try:
            yield check_file(path, golden=image).to_json()
        except SnapproofError as error:
            yield error.sentence


@pytest.mark.parametrize("mapped", [False, True], ids=["stream", "mapped-ram"])
def test_verdicts_on_all_planted_faults(mapped: bool, tmp_path: Path, both: tuple[str, str]) -> None:
    """Each violation of each planted fault has the same words, place and bytes; so has the right file."""
    writer = Writer(Guest(), mapped=mapped)
    golden = write_golden(tmp_path / "golden", writer)
    right, damaged = tmp_path / "right", tmp_path / "damaged"
    right.write_bytes(writer.stream())
    differing = []
    for fault in (None, *CATALOGUE):
        if fault is not None and apply_fault(right, fault, damaged, 1) is None:
            continue
        results = []
        for choice in both:
            with use_core(choice):
                results.append(list(_verdicts(damaged if fault else right, golden)))
        if results[0] != results[1]:
            differing.append(fault.name if fault else "right")
    assert not differing


def test_more_events_than_there_is_room_for(
    tmp_path: Path, both: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are taken as often as needed, and none is lost at the limit."""
    monkeypatch.setattr(library, "_EVENT_LIMIT", 7)
    records = data(0, b"", "a") + b"".join(zero(number % 50, fill=number % 3) for number in range(200))
    raw = tiny.HEADER + ram_start(*_BLOCKS) + ram_part(records) + tiny.end()
    found = _require_same(raw, tmp_path / "file", both)
    assert found[1]["counts"] == {"duplicate": 121, "zero-fill": 133, "page-outside-block": 40}


def test_pages_in_any_order(tmp_path: Path, both: tuple[str, str]) -> None:
    """Digests are those of the pages, in whatever order the file has them, near and far apart."""
    guest = Guest(ram_pages=3000, agent=False)
    random = np.random.default_rng(3)
    guest.ram[:] = random.integers(0, 1 << 63, guest.ram.shape, np.uint64)
    guest.ram[random.integers(0, 3000, 700)] = 0
    order = random.permutation(3000).tolist()
    _require_same(Writer(guest, order=order).stream(), tmp_path / "file", both)


def test_structures_have_the_sizes_of_c() -> None:
    """Both sides have the same number of 64-bit words in each structure."""
    header = (place.SOURCES / "core.h").read_text()
    assert header.count("\tuint64_t ") + header.count("\tint64_t ") + header.count("\tconst int64_t ") == 21
    assert header.count("\tconst uint8_t *map;") == 1
    assert ctypes.sizeof(library.WalkState) == 14 * 8 + 256
    assert ctypes.sizeof(library._Pages) == 8 * 8


def test_holes_of_an_image_are_not_read(tmp_path: Path, both: tuple[str, str]) -> None:
    """Zero pages are compared with the data of a sparse image alone: of 1 GiB here, one page."""
    path, pages = tmp_path / "sparse", (1 << 30) // PAGE
    with path.open("wb") as file:
        file.truncate(1 << 30)
        file.seek((pages - 3) * PAGE)
        file.write(b"x")
    core = library.Core(Path(both[1]))
    before = _bytes_read()
    with path.open("rb") as file:
        found = core.nonzero(library.CoreFile(file.fileno()), np.arange(pages) * PAGE, PAGE)
    assert np.flatnonzero(found).tolist() == [pages - 3]
    assert _bytes_read() - before < 2 << 20


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("step", [0, 1, PAGE - 1, PAGE, PAGE + 8])
def test_pages_that_overlap(tmp_path: Path, both: tuple[str, str], step: int) -> None:
    """No slice has more pages than it has room for, wherever they lie (found by fuzzing)."""
    raw = np.random.default_rng(4).bytes(PAGE * 320)
    (tmp_path / "file").write_bytes(raw)
    core, numbers = library.Core(Path(both[1])), np.arange(300)
    with (tmp_path / "file").open("rb") as file, (tmp_path / "copy").open("w+b") as copy:
        given = library.CoreFile(file.fileno())
        core.copy(given, numbers * step, numbers, PAGE, copy.fileno())
        wanted = b"".join(raw[at * step : at * step + PAGE] for at in range(300))
        assert copy.read() == wanted
        image = copy.fileno()
        assert not core.differing(given, numbers * step, numbers, PAGE, image).any()
