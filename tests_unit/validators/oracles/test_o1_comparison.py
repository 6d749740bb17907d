"""Contract: every page is compared with the golden image exactly once, and each that differs is counted."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.codes import Code
from harness.errors import UsageError
from harness.status import Status
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer, write_golden
from validators import verdict
from validators.judge import check_file
from validators.oracles.o1_golden import golden as golden_module
from validators.oracles.o1_golden.golden import _BlockComparison, check_golden, open_golden
from validators.verdict import CheckResult, Tally
from validators.vmstate.pages import PageReader
from validators.vmstate.progress import WatchedSource
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import FileSource, open_source


def _file(tmp_path: Path, **changes: Any) -> tuple[Path, Path, Writer]:
    """A file without an agent, and its golden image: 30 of 256 pages have data, from page 200 on."""
    writer = Writer(Guest(agent=False), **changes)
    file = tmp_path / "file"
    file.write_bytes(writer.stream())
    return file, write_golden(tmp_path / "golden", writer), writer


def _golden(file: Path, golden: Path) -> CheckResult:
    result = check_file(file, golden=golden).check("golden")
    assert result is not None
    return result


def _flip(golden: Path, pages: list[int], at: int = 0x123) -> None:
    raw = golden / "block-000.ram"
    data = bytearray(raw.read_bytes())
    for page in pages:
        data[page * PAGE + at] ^= 0x10
    raw.write_bytes(data)


_SHUFFLED = [int(page) for page in np.random.default_rng(5).permutation(256)]


@pytest.mark.parametrize(
    "order", [None, _SHUFFLED, list(range(255, -1, -1)), [*range(200, 230), *range(200), *range(230, 256)]]
)
@pytest.mark.parametrize("pages", [[0], [199], [200], [229], [230], [255], [0, 1, 2, 205, 206, 220, 254]])
def test_wrong_page_is_found_in_any_order(tmp_path: Path, order: list[int] | None, pages: list[int]) -> None:
    """Whether its neighbours in the file are its neighbours in RAM or not; with data or zero."""
    file, golden, _ = _file(tmp_path, order=order)
    assert _golden(file, golden).status is Status.PASS
    _flip(golden, pages)
    found = _golden(file, golden)
    assert sorted(one.offset for one in found.violations if one.offset is not None) == [
        page * PAGE for page in pages
    ]
    assert {one.code for one in found.violations} == {Code.GOLDEN_DIFFERS}
    assert all(one.fields == {"block": one.block} for one in found.violations)
    assert (found.total, found.facts["pages compared"]) == (len(pages), 258)


@pytest.mark.parametrize("span", [1, PAGE, 3 * PAGE, 256 << 10])
@pytest.mark.parametrize("piece", [7, 100, 256, 1 << 20])
def test_zero_pages_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, span: int, piece: int) -> None:
    """However many are compared at a time, each is once."""
    monkeypatch.setattr(golden_module, "_ZERO_SPAN", span)
    monkeypatch.setattr(golden_module, "_PIECE_PAGES", piece)
    file, golden, _ = _file(tmp_path)
    pages = [0, 1, 6, 7, 8, 62, 63, 64, 99, 100, 198, 199, 230, 255]
    _flip(golden, pages)
    found = _golden(file, golden)
    assert [one.offset for one in found.violations] == [page * PAGE for page in pages]
    assert found.facts["pages compared"] == 258


@pytest.mark.parametrize("pages", [[], [0], [63], [64], [100, 150], [199, 230], [255]])
def test_sparse_golden_image(tmp_path: Path, pages: list[int]) -> None:
    """Holes are zeros and are not read; what lies between two holes is."""
    file, golden, writer = _file(tmp_path)
    raw = golden / "block-000.ram"
    raw.unlink()
    with raw.open("wb") as sparse:
        sparse.truncate(256 * PAGE)
        sparse.seek(200 * PAGE)
        sparse.write(writer.guest.ram[200:230].tobytes())
        for page in pages:
            sparse.seek(page * PAGE + 5)
            sparse.write(b"\x07")
    found = _golden(file, golden)
    assert [one.offset for one in found.violations] == [page * PAGE for page in pages]
    assert found.facts["pages compared"] == 258
    for one in found.violations:
        assert (one.found, one.expected) == ("a page of zeros", "0x07 at +0x5")
        assert one.sentence.endswith("differs from the golden image in 1 bytes, first at +0x5.")


@pytest.mark.usefixtures("numpy_alone")
def test_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero pages are compared from the next data of the image on, 64 at a time."""
    compared: list[tuple[int, int]] = []

    def forget(source: FileSource, offset: int, length: int) -> None:
        if source.path == image:
            compared.append((offset // PAGE, length // PAGE))

    monkeypatch.setattr(FileSource, "forget", forget)
    file, _, writer = _file(tmp_path)
    descriptor = os.memfd_create("image")
    image = Path(f"/proc/self/fd/{descriptor}")
    try:
        os.truncate(descriptor, 256 * PAGE)
        os.pwrite(descriptor, writer.guest.ram[200:230].tobytes(), 200 * PAGE)
        os.pwrite(descriptor, bytes(PAGE), 100 * PAGE)
        assert _golden(file, image).facts["pages compared"] == 256
    finally:
        os.close(descriptor)
    assert compared == [(200, 30), (100, 64)]


@pytest.mark.parametrize("page", [0, 210])
@pytest.mark.parametrize("at", [0, 1, 4095])
def test_first_and_last_byte_of_a_page(tmp_path: Path, page: int, at: int) -> None:
    """The violation says which byte is wrong, what it is in both, and where in the file the page is."""
    file, golden, writer = _file(tmp_path)
    _flip(golden, [page], at)
    (one,) = _golden(file, golden).violations
    right = writer.guest.ram[page].tobytes()[at]
    assert one.sentence == (
        f"Page 0x{page * PAGE:x} of RAMBlock 'pc.ram' differs from the golden image in 1 bytes, "
        f"first at +0x{at:x}."
    )
    assert one.expected == f"0x{right ^ 0x10:02x} at +0x{at:x}"
    assert one.found == (f"0x{right:02x} at +0x{at:x}" if page else "a page of zeros")
    assert one.file_offset is not None
    content = file.read_bytes()
    if page:
        assert content[one.file_offset :][:PAGE] == writer.guest.ram[page].tobytes()
    first = at // 16 * 16
    assert f"expected +0x{first:03x}: " in one.hexdump
    assert f"found    +0x{first:03x}: " in one.hexdump


def test_first_of_several_wrong_bytes(tmp_path: Path) -> None:
    """The sentence has their number."""
    file, golden, _ = _file(tmp_path)
    for at in (0x10, 0x11, 0xFFF):
        _flip(golden, [210], at)
    (one,) = _golden(file, golden).violations
    assert one.sentence.endswith("differs from the golden image in 3 bytes, first at +0x10.")


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_wrong_pages_of_a_second_block_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """The limit is that of all RAMBlocks together, and each wrong page is counted in its own."""
    monkeypatch.setattr(verdict, "VIOLATION_LIMIT", limit)
    monkeypatch.setattr(golden_module, "VIOLATION_LIMIT", limit)
    file, golden, _ = _file(tmp_path)
    _flip(golden, [210])
    (golden / "block-001.ram").write_bytes(bytes(2 * PAGE))
    found = _golden(file, golden)
    assert (found.total, len(found.violations)) == (3, min(limit, 3))
    assert {block: list(offsets) for block, offsets in found.bad_pages.items()} == {
        "pc.ram": [210 * PAGE], "pc.rom": [0, PAGE],
    }  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 29, 30, 31, 40, 41, 1000])
@pytest.mark.parametrize("missing", [False, True])
def test_wrong_pages_beyond_the_limit_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, missing: bool
) -> None:
    """Pages with data, zero pages and missing ones: all are in the number and on the map, each once."""
    monkeypatch.setattr(verdict, "VIOLATION_LIMIT", limit)
    monkeypatch.setattr(golden_module, "VIOLATION_LIMIT", limit)
    file, golden, _ = _file(tmp_path, order=list(range(250)) if missing else None)
    pages = [*range(5), *range(60, 65), *range(200, 230)]
    _flip(golden, pages)
    bad = pages + (list(range(250, 256)) if missing else [])
    found = _golden(file, golden)
    assert (found.total, len(found.violations)) == (len(bad), min(limit, len(bad)))
    assert sorted(found.bad_pages["pc.ram"]) == [page * PAGE for page in bad]


@pytest.mark.parametrize(("limit", "kept"), [(10, [10, 0]), (64, [64, 0]), (70, [64, 6]), (200, [64, 64])])
def test_content_is_kept_of_reported_pages_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, kept: list[int]
) -> None:
    """What a batch gives back crosses from one process to another, so a wrong file must not make it large."""
    monkeypatch.setattr(golden_module, "VIOLATION_LIMIT", limit)
    file, golden, _ = _file(tmp_path)
    _flip(golden, list(range(128)))
    with open_source(file) as opened, open_golden(golden) as image:
        source = WatchedSource(opened.descriptor, file, lambda *_: None)
        reader = PageReader(source, read_index(source))
        comparison = _BlockComparison(reader, reader.index.blocks[0], image.files["pc.ram"], Tally("a", "b"))
        found = [comparison._compare(np.arange(first, first + 64), None) for first in (0, 64)]
    assert [len(one.contents) for one in found] == kept
    assert [len(one.pages) for one in found] == [64, 64]


@pytest.mark.parametrize("missing", [(0, 210), tuple(range(201, 230, 2))])
def test_missing_page_is_no_comparison(tmp_path: Path, missing: tuple[int, ...]) -> None:
    """It is named with its place in RAM, and not counted as compared; those around it are right."""
    file, golden, _ = _file(tmp_path, order=[page for page in range(256) if page not in missing])
    found = _golden(file, golden)
    assert [(one.code, one.offset, one.expected) for one in found.violations] == [
        (Code.GOLDEN_PAGE_MISSING, page * PAGE, "the page") for page in missing
    ]
    assert found.facts["pages compared"] == 258 - len(missing)


@pytest.mark.parametrize("piece", [1, 100, 128, 256])
@pytest.mark.parametrize(
    ("dirty", "code"), [(None, None), (130, Code.GOLDEN_DIFFERS), (255, Code.GOLDEN_DIFFERS)]
)
def test_unplugged_pages_are_zero_in_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, dirty: int | None, code: Code | None
) -> None:
    """A page that is not plugged in is no missing one; one that is plugged in is."""
    monkeypatch.setattr(golden_module, "_PIECE_PAGES", piece)
    left_out = [130, 131, 255]
    file, golden, _ = _file(tmp_path, order=[page for page in range(256) if page not in [*left_out, 9]])
    if dirty is not None:
        _flip(golden, [dirty])
    absent = np.zeros(256, np.bool_)
    absent[left_out] = True
    with open_source(file) as opened, open_golden(golden) as image:
        source = WatchedSource(opened.descriptor, file, lambda *_: None)
        found = check_golden(PageReader(source, read_index(source)), image, {0: absent})
    codes = {one.offset: one.code for one in found.violations}
    assert codes.pop(9 * PAGE) is Code.GOLDEN_PAGE_MISSING
    assert codes == ({} if dirty is None else {dirty * PAGE: code})
    assert found.facts["pages compared"] == 257


def test_golden_image_that_becomes_shorter(tmp_path: Path) -> None:
    """It is the user's to mend, whether pages are read together or one by one."""
    for name, order in (("in turn", None), ("shuffled", _SHUFFLED)):
        folder = tmp_path / name
        folder.mkdir()
        file, golden, _ = _file(folder, order=order)
        with open_source(file) as opened:
            source = WatchedSource(opened.descriptor, file, lambda *_: None)
            reader = PageReader(source, read_index(source))
            with pytest.raises(UsageError, match="changed while"), open_golden(golden) as image:
                (golden / "block-000.ram").write_bytes(bytes(210 * PAGE))
                with pytest.raises(UsageError, match="golden image became shorter"):
                    check_golden(reader, image)


@pytest.mark.usefixtures("numpy_alone")
@pytest.mark.parametrize("order", [None, _SHUFFLED])
def test_what_was_compared_is_no_longer_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[int] | None
) -> None:
    """Each part of the image is given back once it has been compared, so that a large one fits in memory."""
    forgotten: list[tuple[int, int]] = []

    def forget(source: FileSource, offset: int, length: int) -> None:
        if source.path.name == "block-000.ram":
            forgotten.append((offset // PAGE, length // PAGE))

    monkeypatch.setattr(FileSource, "forget", forget)
    file, golden, _ = _file(tmp_path, order=order)
    _golden(file, golden)
    assert forgotten == [(200, 30), (0, 64), (64, 64), (128, 64), (192, 8), (230, 26)]


@pytest.mark.parametrize("size", [0, PAGE, 255 * PAGE, 257 * PAGE])
def test_image_of_another_length_is_named_with_both(tmp_path: Path, size: int) -> None:
    """Nothing of that RAMBlock is compared; the violation has the place of the RAMBlock in the list."""
    file, golden, _ = _file(tmp_path)
    content = json.loads((golden / "golden.json").read_text())
    content["blocks"][0]["bytes"] = size
    (golden / "golden.json").write_text(json.dumps(content))
    (golden / "block-000.ram").write_bytes(bytes(size))
    if not size:
        with pytest.raises(UsageError):
            check_file(file, golden=golden)
        return
    found = _golden(file, golden)
    (one,) = found.violations
    assert (one.code, one.block) == (Code.GOLDEN_BLOCK_LENGTH, "pc.ram")
    assert (
        one.sentence == f"RAMBlock 'pc.ram' has {256 * PAGE} bytes in the stream, {size} in the golden image."
    )
    assert one.file_offset == file.read_bytes().index(b"\x06pc.ram")
    assert found.facts["pages compared"] == 2


def test_blocks_that_only_one_side_has(tmp_path: Path) -> None:
    """Each is named; one in the stream with its place."""
    file, golden, _ = _file(tmp_path)
    content = json.loads((golden / "golden.json").read_text())
    content["blocks"][1]["idstr"] = "other"
    (golden / "golden.json").write_text(json.dumps(content))
    missing, more = _golden(file, golden).violations
    assert (missing.code, missing.block) == (Code.GOLDEN_BLOCK_NOT_IN_IMAGE, "pc.rom")
    assert missing.file_offset == file.read_bytes().index(b"\x06pc.rom")
    assert (more.code, more.block) == (Code.GOLDEN_BLOCK_NOT_IN_STREAM, "other")


def test_block_that_the_image_lacks_hides_no_other(tmp_path: Path) -> None:
    """The next RAMBlock is compared nevertheless."""
    file, golden, _ = _file(tmp_path)
    content = json.loads((golden / "golden.json").read_text())
    content["blocks"] = content["blocks"][1:]
    (golden / "golden.json").write_text(json.dumps(content))
    (golden / "block-001.ram").write_bytes(bytes(2 * PAGE))
    assert [(one.code, one.block, one.offset) for one in _golden(file, golden).violations] == [
        (Code.GOLDEN_BLOCK_NOT_IN_IMAGE, "pc.ram", None),
        (Code.GOLDEN_DIFFERS, "pc.rom", 0),
        (Code.GOLDEN_DIFFERS, "pc.rom", PAGE),
    ]


def test_stream_without_blocks_is_not_compared(tmp_path: Path) -> None:
    """It is skipped with the reason."""
    file, golden, _ = _file(tmp_path)
    with open_source(file) as opened, open_golden(golden) as image:
        source = WatchedSource(opened.descriptor, file, lambda *_: None)
        found = check_golden(PageReader(source, replace(read_index(source), blocks=())), image)
    assert (found.status, found.reason) == (
        Status.SKIP, "The stream has no RAMBlocks that could be compared.",
    )  # fmt: skip


def test_single_raw_file_is_the_largest_block_alone(tmp_path: Path) -> None:
    """Other RAMBlocks are not compared, which is said, and are no fault."""
    file, golden, _ = _file(tmp_path)
    found = _golden(file, golden / "block-000.ram")
    facts = {"pages compared": 256, "RAMBlocks left out of the golden image": "pc.rom"}
    assert (found.status, found.facts) == (Status.PASS, facts)
    assert (
        found.explanation == "Every page of the largest RAMBlock equals the golden image, which has no other."
    )
    (one,) = _golden(file, golden / "block-001.ram").violations
    assert (one.code, one.block) == (Code.GOLDEN_BLOCK_LENGTH, "pc.ram")


@pytest.mark.parametrize(("version", "words"), [(0, "version 0"), (2, "version 2")])
def test_list_of_another_version_is_refused(tmp_path: Path, version: int, words: str) -> None:
    """A later form may mean something else."""
    file, golden, _ = _file(tmp_path)
    content = json.loads((golden / "golden.json").read_text())
    (golden / "golden.json").write_text(json.dumps({**content, "version": version}))
    with pytest.raises(UsageError, match=f"unknown {words}"):
        check_file(file, golden=golden)


@pytest.mark.parametrize("change", [-1, 1, PAGE])
def test_file_of_another_length_than_the_list_says_is_refused(tmp_path: Path, change: int) -> None:
    """A golden image that was cut or grew says nothing about the snapshot."""
    file, golden, _ = _file(tmp_path)
    content = json.loads((golden / "golden.json").read_text())
    content["blocks"][1]["bytes"] += change
    (golden / "golden.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=f"has {2 * PAGE} bytes, but {2 * PAGE + change} by golden.json"):
        check_file(file, golden=golden)


@pytest.mark.parametrize("size", [1, 1023, 1025, 256 * PAGE + 512])
def test_raw_file_of_part_of_a_page_is_refused(tmp_path: Path, size: int) -> None:
    """The smallest target page of QEMU is 1 KiB."""
    file, _, _ = _file(tmp_path)
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(size))
    with pytest.raises(UsageError, match="not a whole number of pages"):
        check_file(file, golden=raw)


def test_raw_file_of_small_pages_is_compared(tmp_path: Path) -> None:
    """A multiple of 1 KiB can be the RAM of some guest; here it is of another length."""
    file, _, _ = _file(tmp_path)
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(1024))
    assert [one.code for one in _golden(file, raw).violations] == [Code.GOLDEN_BLOCK_LENGTH]


def _leave_gaps(golden: Path, gaps: object) -> None:
    content = json.loads((golden / "golden.json").read_text())
    content["blocks"][0]["gaps"] = gaps
    (golden / "golden.json").write_text(json.dumps(content))


@pytest.mark.parametrize("order", [None, _SHUFFLED])
@pytest.mark.parametrize(
    ("pages", "wrong"),
    # Pages 10 to 19 and 205 to 209 are gaps; 200 to 229 have data.
    [([10], []), ([19], []), ([9], [9]), ([20], [20]), ([205, 209], []), ([204, 210], [204, 210]),
     ([11, 206, 229], [229])],
)  # fmt: skip
def test_pages_in_gaps_are_not_compared(
    tmp_path: Path, order: list[int] | None, pages: list[int], wrong: list[int]
) -> None:
    """All others are, and both are counted."""
    file, golden, _ = _file(tmp_path, order=order)
    everything = _golden(file, golden).facts["pages compared"]
    _leave_gaps(golden, [[10 * PAGE, 20 * PAGE], [205 * PAGE, 210 * PAGE]])
    _flip(golden, pages)
    found = _golden(file, golden)
    assert sorted(int(one.offset or 0) // PAGE for one in found.violations) == wrong
    assert found.facts["pages not in the golden image"] == 15
    assert found.facts["pages compared"] == int(everything) - 15


def test_gap_of_a_part_of_a_page_is_one_of_the_page(tmp_path: Path) -> None:
    """A page of which the image lacks a byte cannot be compared."""
    file, golden, _ = _file(tmp_path)
    _leave_gaps(golden, [[11 * PAGE - 1, 11 * PAGE + 1]])
    _flip(golden, [10, 11])
    found = _golden(file, golden)
    assert not found.violations
    assert found.facts["pages not in the golden image"] == 2


def test_image_that_is_one_gap_proves_nothing(tmp_path: Path) -> None:
    """It is no PASS."""
    file, golden, _ = _file(tmp_path)
    content = json.loads((golden / "golden.json").read_text())
    for entry in content["blocks"]:
        entry["gaps"] = [[0, entry["bytes"]]]
    (golden / "golden.json").write_text(json.dumps(content))
    found = _golden(file, golden)
    assert found.status is Status.SKIP
    assert "no page" in found.reason


@pytest.mark.parametrize(
    "gaps",
    [
        3,
        [3],
        [[0]],
        [[0, 0]],
        [[PAGE, 0]],
        [[-1, 1]],
        [[0, 1 << 40]],
        [[0, 2], [1, 3]],
        [[0.0, 1]],
        [[0, "1"]],
    ],
)
def test_impossible_gaps_are_refused(tmp_path: Path, gaps: object) -> None:
    """Such a golden image cannot be used."""
    file, golden, _ = _file(tmp_path)
    _leave_gaps(golden, gaps)
    with pytest.raises(UsageError):
        _golden(file, golden)
