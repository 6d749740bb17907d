"""Contract: no page, word or byte of a snapshot is outside the golden and write-order oracles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guest_images.agent import pages as ap
from harness.codes import Code
from harness.status import Status
from tests_unit.support.synthetic_stream import NONCE, PAGE, Guest, Writer, write_golden
from validators.judge import check_file
from validators.oracles.o1_golden import golden as golden_oracle
from validators.oracles.o4_structure import structure
from validators.verdict import CheckResult


def _judge(tmp_path: Path, writer: Writer, golden: Path | None = None) -> CheckResult:
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    result = check_file(path, golden=golden).check("golden" if golden else "write-order")
    assert result is not None
    return result


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("page", [0, 19, 200, 229, 255])
@pytest.mark.parametrize("byte", [0, 7, 8, 2048, 4088, 4095])
def test_golden_compares_every_byte(tmp_path: Path, mapped: bool, page: int, byte: int) -> None:
    """First and last bytes and pages count, of pages with data and of zero pages."""
    writer = Writer(Guest(agent=False), mapped=mapped)
    golden = write_golden(tmp_path / "golden", writer)
    file = golden / "block-000.ram"
    data = bytearray(file.read_bytes())
    data[page * PAGE + byte] ^= 0x80
    file.write_bytes(data)
    (found,) = _judge(tmp_path, writer, golden).violations
    assert (found.code, found.block, found.offset) == (Code.GOLDEN_DIFFERS, "pc.ram", page * PAGE)
    assert f"differs from the golden image in 1 bytes, first at +0x{byte:x}." in found.sentence
    assert found.hexdump


def test_golden_names_both_contents(tmp_path: Path) -> None:
    """The violation has the image's content as expected, the stream's as found, and names zeros."""
    writer = Writer(Guest(agent=False))
    golden = write_golden(tmp_path / "golden", writer)
    file = golden / "block-000.ram"
    data = bytearray(file.read_bytes())
    kept = data[210 * PAGE + 9]
    data[210 * PAGE + 9] ^= 0xFF
    data[19 * PAGE + 4095] = 0x5A
    data[211 * PAGE : 212 * PAGE] = bytes(PAGE)
    file.write_bytes(data)
    found = {violation.offset: violation for violation in _judge(tmp_path, writer, golden).violations}
    assert found[210 * PAGE].expected == f"0x{kept ^ 0xFF:02x} at +0x9"
    assert found[210 * PAGE].found == f"0x{kept:02x} at +0x9"
    assert (found[19 * PAGE].expected, found[19 * PAGE].found) == ("0x5a at +0xfff", "a page of zeros")
    assert found[211 * PAGE].expected == "a page of zeros"
    stream = (tmp_path / "file").read_bytes()
    at = found[210 * PAGE].file_offset
    assert at is not None
    assert stream[at : at + PAGE] == writer.guest.ram[210].tobytes()


@pytest.mark.parametrize("page", [0, 1])
def test_golden_compares_every_block(tmp_path: Path, page: int) -> None:
    """The last page of the last block is compared too."""
    writer = Writer(Guest(agent=False))
    golden = write_golden(tmp_path / "golden", writer)
    file = golden / "block-001.ram"
    data = bytearray(file.read_bytes())
    data[page * PAGE + PAGE - 1] ^= 1
    file.write_bytes(data)
    (found,) = _judge(tmp_path, writer, golden).violations
    assert (found.code, found.block, found.offset) == (Code.GOLDEN_DIFFERS, "pc.rom", page * PAGE)


def test_golden_compares_pages_in_any_order(tmp_path: Path) -> None:
    """A background snapshot has its pages in the order of the guest's writes."""
    order = np.random.default_rng(1).permutation(256).tolist()
    writer = Writer(Guest(agent=False), order=order)
    golden = write_golden(tmp_path / "golden", writer)
    right = _judge(tmp_path, writer, golden)
    assert (right.status, right.facts["pages compared"]) == (Status.PASS, 258)
    file = golden / "block-000.ram"
    data = bytearray(file.read_bytes())
    for page in (200, 215, 229):
        data[page * PAGE + PAGE - 1] ^= 1
    file.write_bytes(data)
    wrong = _judge(tmp_path, writer, golden)
    assert sorted(found.offset or 0 for found in wrong.violations) == [n * PAGE for n in (200, 215, 229)]
    assert wrong.total == 3


@pytest.mark.parametrize("missing", [0, 19, 255])
def test_golden_misses_a_page(tmp_path: Path, missing: int) -> None:
    """A page that the stream has not is a violation of this oracle too, at either end of a block."""
    order = [page for page in range(256) if page != missing]
    writer = Writer(Guest(agent=False), order=order)
    result = _judge(tmp_path, writer, write_golden(tmp_path / "golden", writer))
    assert [(found.code, found.offset) for found in result.violations] == [
        (Code.GOLDEN_PAGE_MISSING, missing * PAGE)
    ]
    assert result.facts["pages compared"] == 257


@pytest.mark.parametrize("thread", [0, 1])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("word", [6, 511])
def test_write_order_judges_every_page(tmp_path: Path, thread: int, last: bool, word: int) -> None:
    """The first and the last page of each thread are judged, and their last words."""
    guest = Guest()
    index = guest.counts[thread] - 1 if last else 0
    place = guest.places[thread, index]
    guest.ram[place, word] ^= np.uint64(1)
    (found,) = _judge(tmp_path, Writer(guest)).violations
    assert (found.code, found.thread, found.index) == (Code.WRITE_ORDER_CORRUPT, thread, index)
    assert found.offset == place * PAGE


@pytest.mark.parametrize("change", [-1, 1])
def test_write_order_compares_the_generation(tmp_path: Path, change: int) -> None:
    """A page whose step is right, and whose checksum is too, is wrong if it is of another generation."""
    guest = Guest()
    generation, step = guest.schedule(0).state(150)
    one = [np.array([value], np.uint64) for value in (30, int(generation[30]) + change, int(step[30]))]
    guest.ram[guest.places[0, 30]] = guest.schedule(0).content(NONCE, *one)[0]
    (found,) = _judge(tmp_path, Writer(guest)).violations
    assert (found.code, found.index) == (Code.WRITE_ORDER_WRONG_GENERATION, 30)
    wrong = int(generation[30]) + change
    assert found.sentence.endswith(f"is of generation {wrong} although its step is right.")


@pytest.mark.parametrize("word", [0, 6, 511])
@pytest.mark.parametrize("pattern", [ap.Pattern.ZERO, ap.Pattern.SPARSE])
def test_write_order_demands_zeros(tmp_path: Path, pattern: ap.Pattern, word: int) -> None:
    """Only zeros pass in pages never written, and in those written with zeros."""
    guest = Guest(pattern=pattern, steps=(30, 20) if pattern is ap.Pattern.SPARSE else (150, 77))
    generation, _ = guest.schedule(0).state(guest.steps[0])
    writing, _ = guest.schedule(0).locate(np.array([guest.steps[0]], np.uint64))
    zero = [int(n) for n in np.flatnonzero(guest.schedule(0).is_zero(generation)) if n != int(writing[0])]
    place = guest.places[0, zero[-1]]
    assert not guest.ram[place].any()
    guest.ram[place, word] = 1
    (found,) = _judge(tmp_path, Writer(guest)).violations
    assert (found.code, found.offset) == (Code.WRITE_ORDER_CORRUPT, place * PAGE)
    assert (found.thread, found.index, found.expected) == (0, zero[-1], "zeros")


@pytest.mark.parametrize("missing", [250, 254, 255])
def test_large_blocks_are_judged_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """A block is judged piece by piece, and the last piece counts even if it is one page."""
    monkeypatch.setattr(golden_oracle, "_PIECE_PAGES", 5)
    monkeypatch.setattr(structure, "_PIECE", 5)
    writer = Writer(Guest(agent=False), order=[page for page in range(256) if page != missing])
    path, golden = tmp_path / "file", write_golden(tmp_path / "golden", writer)
    path.write_bytes(writer.stream())
    found = check_file(path, golden=golden).violations
    assert {(violation.code, violation.offset) for violation in found} == {
        (Code.GOLDEN_PAGE_MISSING, missing * PAGE),
        (Code.PAGE_MISSING_NOT_IN_STREAM, missing * PAGE),
    }
