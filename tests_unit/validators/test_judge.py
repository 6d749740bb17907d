"""Contract: a file is judged by every oracle that applies; one that is not read to its end never passes."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.codes import Code
from harness.errors import UsageError
from harness.status import Status
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer, device, write_golden
from validators import judge
from validators.judge import check_file
from validators.verdict import CheckResult, Tally
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Anomaly
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import PipeSource

_STREAM = Writer(Guest(agent=False)).stream()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A right vmstate file."""
    path = tmp_path / "file"
    path.write_bytes(_STREAM)
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe that nothing writes to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(("golden", "offset"), [(Path("golden"), 0), (None, 1), (Path("golden"), 1)])
@pytest.mark.parametrize("name", ["-", "pipe"])
def test_pipe_with_a_golden_image_or_an_offset_is_refused(
    pipe: Path, name: str, golden: Path | None, offset: int
) -> None:
    """It cannot be compared with an image, and so would pass without what was asked for."""
    with pytest.raises(UsageError, match="checked from its start and by its structure alone"):
        check_file(pipe if name == "pipe" else Path("-"), golden=golden, offset=offset)


def _piped(pipe: Path, content: bytes) -> Callable[[], None]:
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    return writer.join


def test_pipe_is_judged_by_structure(pipe: Path) -> None:
    """All rules of the structure are judged, and no oracle over pages."""
    join = _piped(pipe, _STREAM)
    found = check_file(pipe)
    join()
    assert found.status is Status.PASS
    assert {"header", "page-missing", "section-order"} <= {check.name for check in found.checks}
    assert (found.check("write-order"), found.check("golden")) == (None, None)


def test_standard_input_is_judged_by_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name "-"; a stream without its end is not passed."""
    for content, status in ((_STREAM, Status.PASS), (_STREAM[:-1], Status.FAIL)):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        assert check_file(Path("-")).status is status


_MAPPED = Writer(Guest(agent=False), mapped=True).stream()
_VIRTIO_MEM = Writer(Guest(agent=False)).stream_with([device(50, "0000:00:02.0/virtio-mem", [1])])


@pytest.mark.parametrize(
    ("content", "words"),
    [(_MAPPED, "The stream was not judged"), (_VIRTIO_MEM, "cannot be judged in a pipe")],
)
def test_stream_that_a_pipe_cannot_give_is_refused(
    monkeypatch: pytest.MonkeyPatch, content: bytes, words: str
) -> None:
    """One that needs its bytes again neither passes nor fails: the user has to give the file."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    with pytest.raises(UsageError, match=words) as refused:
        check_file(Path("-"))
    assert refused.value.sentence.endswith("give the file itself.")


@pytest.mark.parametrize("name", ["gone", "folder"])
def test_path_without_a_file_is_the_users_mistake(tmp_path: Path, name: str) -> None:
    """A folder and a missing file are no pipes."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError) as refused:
        check_file(tmp_path / name, golden=tmp_path)
    assert "pipe" not in refused.value.sentence.lower()


def test_stages_of_a_check(file: Path, tmp_path: Path) -> None:
    """Progress names each stage, from nothing done to all of it."""
    golden = write_golden(tmp_path / "golden", Writer(Guest(agent=False)))
    told: list[tuple[str, int, int]] = []
    check_file(file, golden=golden, progress=lambda *what: told.append(what))
    data_bytes = 32 * PAGE
    assert told == [
        ("structure", 0, len(_STREAM)),
        ("structure", len(_STREAM), len(_STREAM)),
        ("write-order", 0, data_bytes),
        ("write-order", data_bytes, data_bytes),
        ("golden", 0, data_bytes),
        ("golden", data_bytes, data_bytes),
    ]


def test_stages_of_a_file_with_little_in_it(file: Path) -> None:
    """Nothing lies behind the end of a file, and a guest of zeros alone has no data."""
    told: list[tuple[str, int, int]] = []
    with pytest.raises(UsageError, match="no vmstate stream at offset"):
        check_file(file, offset=len(_STREAM) + 1, progress=lambda *what: told.append(what))
    guest = Guest(agent=False)
    guest.ram[:] = 0
    file.write_bytes(Writer(guest, rom=bytes(PAGE)).stream())
    check_file(file, progress=lambda *what: told.append(what))
    size = file.stat().st_size
    assert (
        told
        == [("structure", 0, 0), ("structure", 0, size), ("structure", size, size)]
        + [("write-order", 0, 0)] * 2
    )


def test_stream_inside_a_larger_file(tmp_path: Path) -> None:
    """The structure stage is as long as the file behind the offset."""
    path, told = tmp_path / "file", list[tuple[str, int, int]]()
    path.write_bytes(bytes(8192) + _STREAM)
    assert check_file(path, offset=8192, progress=lambda *what: told.append(what)).status is Status.PASS
    assert told[0] == ("structure", 0, len(_STREAM))


def test_file_that_shrinks_while_its_pages_are_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a violation of the oracle that saw it, with code, sentence and place; nothing passes."""

    def shrunk(_reader: object, _agent_ran: bool) -> CheckResult:
        raise StreamError(Code.TRUNCATED_SHRANK, "The file became shorter.", 4711)

    monkeypatch.setattr(judge, "check_write_order", shrunk)
    found = check_file(file)
    (violation,) = found.violations
    assert (found.status, violation.check, violation.code) == (
        Status.FAIL, "write-order", Code.TRUNCATED_SHRANK,
    )  # fmt: skip
    assert (violation.sentence, violation.file_offset) == ("The file became shorter.", 4711)


def test_damaged_file_is_not_judged_by_its_pages(file: Path, tmp_path: Path) -> None:
    """Neither oracle over pages judges a part of RAM; the damage has its place."""
    golden = write_golden(tmp_path / "golden", Writer(Guest(agent=False)))
    file.write_bytes(_STREAM[:50_000])
    found = check_file(file, golden=golden)
    assert found.status is Status.FAIL
    for name in ("write-order", "golden"):
        result = found.check(name)
        assert result is not None
        assert (result.status, result.reason) == (
            Status.SKIP, "The stream is damaged before the end of RAM.",
        )  # fmt: skip


def test_damage_that_breaks_no_rule_fails_nevertheless() -> None:
    """A file that was not read to its end never passes; one with a failed check needs no second one."""
    index = read_index(PipeSource(io.BytesIO(_STREAM)))
    damage = Anomaly(Code.BLOCK_SIZE_TOO_LARGE, "The block is too large.", 99)
    damaged = replace(index, damage=damage)
    passed, failed = Tally("a", "It demands.").result(), Tally("b", "It demands.")
    failed.report(Code.GOLDEN_DIFFERS, "It differs.")
    found = judge._verdict([passed], damaged)
    assert [check.name for check in found.checks] == ["a", "readable"]
    (violation,) = found.violations
    assert (violation.code, violation.sentence, violation.file_offset) == (damage.code, damage.sentence, 99)
    assert [check.name for check in judge._verdict([failed.result()], damaged).checks] == ["b"]
    assert [check.name for check in judge._verdict([passed], index).checks] == ["a"]


def test_lengths_of_all_blocks_are_in_the_verdict(file: Path) -> None:
    """Maps are drawn by them."""
    assert check_file(file).lengths == {"pc.ram": 256 * PAGE, "pc.rom": 2 * PAGE}


@pytest.mark.parametrize(
    ("block", "offset", "gpa", "found"),
    [
        ("pc.ram", 5 * PAGE, None, 5 * PAGE),
        ("pc.ram", 0, None, 0),
        ("pc.ram", 5 * PAGE, 77, 77),
        ("pc.ram", None, None, None),
        ("pc.rom", PAGE, None, None),
        ("other", PAGE, None, None),
        ("", PAGE, None, None),
    ],
)
def test_address_that_the_machine_type_implies(
    block: str, offset: int | None, gpa: int | None, found: int | None
) -> None:
    """A violation in main RAM gets its guest-physical address, unless its check has given one."""
    index = read_index(PipeSource(io.BytesIO(_STREAM)))
    tally = Tally("a", "It demands.")
    tally.report(Code.GOLDEN_DIFFERS, "It differs.", block, offset)
    result = tally.result()
    result = replace(result, violations=(replace(result.violations[0], gpa=gpa),))
    assert judge._verdict([result], index).violations[0].gpa == found


def test_machine_that_is_not_known_implies_no_address() -> None:
    """A violation of its file has none."""
    index = read_index(PipeSource(io.BytesIO(Writer(Guest(agent=False, machine="made-up")).stream())))
    tally = Tally("a", "It demands.")
    tally.report(Code.GOLDEN_DIFFERS, "It differs.", "pc.ram", PAGE)
    assert judge._verdict([tally.result()], index).violations[0].gpa is None


@pytest.mark.parametrize("more", [0, 1])
def test_file_that_could_just_hold_more_ram_than_we_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """A length is damaged where the file has room for one record of each page that we read, and no more."""
    pages = len(_STREAM) // fmt.LEAST_RECORD_BYTES + 1
    monkeypatch.setattr(fmt, "MAX_PAGES", pages)
    monkeypatch.setattr(judge, "MAX_PAGES", pages)
    at = _STREAM.index(b"\6pc.ram") + 7
    content = _STREAM[:at] + (pages * PAGE).to_bytes(8, "big") + _STREAM[at + 8 :]
    path = tmp_path / "file"
    path.write_bytes(content + bytes(pages * fmt.LEAST_RECORD_BYTES - len(content) + more))
    if more:
        with pytest.raises(UsageError, match="more than snapproof reads"):
            check_file(path)
    else:
        assert Code.BLOCK_SIZE_TOO_LARGE in {found.code for found in check_file(path).violations}
