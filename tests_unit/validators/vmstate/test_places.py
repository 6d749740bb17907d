"""Contract: sound files of any size pass, and of a damaged list the RAMBlock that is wrong is named."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.codes import Code
from harness.errors import UsageError
from harness.status import Status
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer, write_golden
from validators import judge
from validators.judge import check_file
from validators.oracles.o1_golden.golden import _BlockComparison
from validators.vmstate.diff import diff_files
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.index import SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import Source, open_source

_PLAIN = Writer(Guest(agent=False)).stream()
_MAPPED = Writer(Guest(agent=False), mapped=True).stream()


def _length_altered(stream: bytes, name: bytes, change: int) -> bytes:
    """The stream with another length of a RAMBlock in its list."""
    at = stream.index(bytes([len(name)]) + name) + 1 + len(name)
    length = int.from_bytes(stream[at : at + 8], "big") + change
    return stream[:at] + length.to_bytes(8, "big") + stream[at + 8 :]


@pytest.mark.parametrize("change", [PAGE, -PAGE, 300 * PAGE])
@pytest.mark.parametrize("name", ["pc.ram", "pc.rom"])
def test_a_wrong_length_is_blamed_on_its_own_block(tmp_path: Path, name: str, change: int) -> None:
    """Whichever RAMBlock of the list has the wrong length, no violation names another one."""
    path = tmp_path / "file"
    path.write_bytes(_length_altered(_PLAIN, name.encode(), change))
    violations = check_file(path).violations
    assert Code.BLOCK_LIST_SUM in {found.code for found in violations}
    assert {found.block for found in violations} == {"", name}


def test_exchanged_regions_are_blamed_on_their_blocks(tmp_path: Path) -> None:
    """Two mapped-ram headers in each other's place name a RAMBlock that has one of them."""
    heads = [_MAPPED.index(bytes([6]) + name) + 7 + 8 for name in (b"pc.ram", b"pc.rom")]
    first, second = (_MAPPED[at : at + 28] for at in heads)
    data = bytearray(_MAPPED)
    data[heads[0] : heads[0] + 28], data[heads[1] : heads[1] + 28] = second, first
    path = tmp_path / "file"
    path.write_bytes(data)
    violations = check_file(path).violations
    assert Code.MAPPED_RAM_BITMAP_PLACE in {found.code for found in violations}
    assert {found.block for found in violations} == {"pc.ram"}


def test_too_large_a_guest_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More RAM than we read is our limit and no damage, if the file is large enough to hold it."""
    monkeypatch.setattr(fmt, "MAX_PAGES", 100)
    monkeypatch.setattr(judge, "MAX_PAGES", 100)
    path = tmp_path / "file"
    path.write_bytes(_PLAIN)
    with pytest.raises(UsageError, match="more than snapproof reads"):
        check_file(path)


def test_length_that_the_file_cannot_hold_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that claims more RAM than we read has a wrong length in its list."""
    pages = len(_PLAIN) // fmt.LEAST_RECORD_BYTES + 1
    monkeypatch.setattr(fmt, "MAX_PAGES", pages)
    monkeypatch.setattr(judge, "MAX_PAGES", pages)
    path = tmp_path / "file"
    path.write_bytes(_length_altered(_PLAIN, b"pc.ram", pages * PAGE))
    assert Code.BLOCK_SIZE_TOO_LARGE in {found.code for found in check_file(path).violations}


def test_a_sound_sparse_file_of_two_tib_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on RAM is above 2 TiB: the list of such a mapped-ram file is read to its end."""
    path = tmp_path / "file"
    write_sparse(path, 2 << 40)

    def only_the_list(source: Source, start: int = 0, **_: Any) -> SnapshotIndex:
        # Entering 512 Mi pages takes 4 GiB of memory, too much for a unit test.
        monkeypatch.setattr("validators.vmstate.stream.ramlist.BlockList.fill_mapped", lambda _self: None)
        return read_index(source, start)

    monkeypatch.setattr(judge, "read_index", only_the_list)
    with open_source(path) as source:
        index = only_the_list(source)
    assert index.damage is None
    assert not index.anomaly_counts
    assert index.blocks[0].used_length == 2 << 40


def write_sparse(path: Path, ram_bytes: int) -> None:
    """Write a mapped-ram file of a guest whose RAM is zero but for its first 64 pages; the rest are holes."""
    small = Guest(agent=False, ram_pages=231)
    data = Writer(small, mapped=True).stream()
    start = data.index(b"\6pc.ram")
    total_at, pages = start - 8, ram_bytes // PAGE
    bitmap_at, bitmap_bytes = start + 7 + 8 + 28, (pages + 63) // 64 * 8
    pages_at = (bitmap_at + bitmap_bytes + (1 << 20) - 1) >> 20 << 20
    rest_at = data.index(b"\6pc.rom")
    rest = bytearray(data[rest_at:])
    moved = pages_at + ram_bytes - rest_at
    for at in (15 + 12, 15 + 20):
        old = int.from_bytes(rest[at : at + 8], "big")
        rest[at : at + 8] = (old + moved).to_bytes(8, "big")
    with path.open("wb") as file:
        file.write(data[:total_at] + struct.pack(">Q", ram_bytes + 2 * PAGE | fmt.FLAG_MEM_SIZE))
        file.write(b"\6pc.ram" + struct.pack(">QIQQQ", ram_bytes, 1, PAGE, bitmap_at, pages_at))
        file.write(b"\xff" * 8)
        file.seek(pages_at)
        file.write(np.full(64 * PAGE, 7, np.uint8).tobytes())
        file.seek(pages_at + ram_bytes)
        file.write(rest)


def _grows(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _is_rewritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"QEVM")
    os.utime(path, (1, 1))


def _is_replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize("change", [_grows, _is_rewritten, _is_replaced])
def test_a_file_that_changes_while_it_is_read_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """What was read at two times is no file that ever was; it neither passes nor fails."""
    path = tmp_path / "file"
    path.write_bytes(_PLAIN)

    def changed_meanwhile(
        source: Source, start: int = 0, ends_file: bool | None = None, **_: Any
    ) -> SnapshotIndex:
        index = read_index(source, start, ends_file)
        change(path)
        return index

    monkeypatch.setattr(judge, "read_index", changed_meanwhile)
    monkeypatch.setattr("validators.vmstate.diff.read_index", changed_meanwhile)
    with pytest.raises(UsageError, match="while it was read"):
        check_file(path)
    path.write_bytes(_PLAIN)
    with pytest.raises(UsageError, match="while it was read"):
        diff_files(path, path)


def test_a_golden_image_that_changes_is_not_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The golden image is held to the same."""
    path = tmp_path / "file"
    path.write_bytes(_PLAIN)
    golden = write_golden(tmp_path / "golden", Writer(Guest(agent=False)))
    assert check_file(path, golden=golden).status is Status.PASS
    compare = _BlockComparison.run

    def run(self: _BlockComparison, unplugged: Any) -> int:
        _grows(golden / "block-001.ram")
        return compare(self, unplugged)

    monkeypatch.setattr(_BlockComparison, "run", run)
    with pytest.raises(UsageError, match=r"block-001\.ram' changed while"):
        check_file(path, golden=golden)
