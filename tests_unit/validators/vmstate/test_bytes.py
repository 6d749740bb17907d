"""Contract: bytes of a file, of a pipe and of virtio-mem's state come out as they were written."""

from __future__ import annotations

import errno
import io
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.codes import Code
from harness.errors import SetupBroken, UsageError
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.tiny_stream import PAGE, data, end, ram_part, ram_start, zero
from validators.native.library import native_core
from validators.vmstate.stream import PipeSource, open_source, read_index, records
from validators.vmstate.stream import source as sources
from validators.vmstate.stream.cursor import Cursor, readable
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Block
from validators.vmstate.stream.source import FileSource
from validators.vmstate.virtio_mem import _plugged

_RAW = bytes(range(256)) * 40


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 0),
        (0, 1),
        (0, len(_RAW)),
        (5, 100),
        (len(_RAW) - 3, 3),
        (len(_RAW) - 3, 9),
        (len(_RAW), 1),
        (1 << 40, 5),
    ],
)
def test_a_file_gives_the_bytes_at_an_offset(tmp_path: Path, offset: int, length: int) -> None:
    """Fewer only at its end; as bytes, as a window and as a view."""
    path = tmp_path / "file"
    path.write_bytes(_RAW)
    with open_source(path) as source:
        for read in (source.read, source.window, source.view):
            assert bytes(read(offset, length)) == _RAW[offset : offset + length]
        source.forget(offset, length)


def test_views_outlive_what_is_forgotten_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that were unmapped are mapped again."""
    monkeypatch.setattr(sources, "_RELEASE_STEP", PAGE)
    path = tmp_path / "file"
    path.write_bytes(_RAW)
    with open_source(path) as source:
        for offset in (0, PAGE, 2 * PAGE, 0, 5):
            assert bytes(source.view(offset, PAGE)) == _RAW[offset : offset + PAGE][: len(_RAW) - offset]
            source.forget(offset, PAGE)
            source.release(offset)


def test_a_buffer_is_filled_with_pieces_of_a_file(tmp_path: Path) -> None:
    """Their number of bytes says whether the file ended before."""
    path = tmp_path / "file"
    path.write_bytes(_RAW)
    buffer = bytearray(20)
    with open_source(path) as source:
        assert source.fill(memoryview(buffer), [(0, 4, 10), (10, 15, 100)]) == 9
        assert bytes(buffer) == _RAW[10:14] + bytes(6) + _RAW[100:105] + bytes(5)
        assert source.fill(memoryview(buffer), [(0, 10, len(_RAW) - 3)]) == 3


def test_a_file_that_grows_is_read_to_where_it_ended(tmp_path: Path) -> None:
    """Its size is that of when it was opened."""
    path = tmp_path / "file"
    path.write_bytes(_RAW)
    with pytest.raises(UsageError, match="changed while it was read"), open_source(path) as source:
        with path.open("ab") as file:
            file.write(b"more")
        assert source.read(0, 1 << 20) == source.read(0, len(_RAW)) == _RAW
        assert source.read(len(_RAW), 3) == b""


def test_only_a_file_without_bytes_is_empty(tmp_path: Path) -> None:
    """One byte can be mapped and read."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="is empty"), open_source(path):
        pass
    path.write_bytes(b"x")
    with open_source(path) as source:
        assert bytes(source.view(0, 9)) == b"x"


def test_a_file_that_shrinks_gives_what_is_left(tmp_path: Path) -> None:
    """A read ends, although the file had more bytes when it was opened."""
    path = tmp_path / "file"
    path.write_bytes(_RAW)
    with pytest.raises(UsageError, match="changed while it was read"), open_source(path) as source:
        os.truncate(path, 100)
        assert source.read(10, len(_RAW)) == _RAW[10:100]


def test_a_read_that_ends_early_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may give fewer bytes than were asked for."""
    path = tmp_path / "file"
    path.write_bytes(_RAW)
    whole = os.pread
    with open_source(path) as source:
        monkeypatch.setattr(os, "pread", lambda file, length, at: whole(file, min(length, 7), at))
        assert source.read(5, 30) == _RAW[5:35]
        assert source.read(len(_RAW) - 10, 30) == _RAW[-10:]


@pytest.mark.parametrize(
    ("call", "read"),
    [
        ("pread", lambda source: source.read(5, 1)),
        ("preadv", lambda source: source.fill(memoryview(bytearray(3)), [(0, 3, 5)])),
        ("lseek", lambda source: source.next_data(5)),
    ],
)
def test_bytes_that_the_disk_does_not_give_are_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, read: Callable[[FileSource], object]
) -> None:
    """The error has a code of its own, and the place."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "file"
    path.write_bytes(_RAW)
    with open_source(path) as source:
        monkeypatch.setattr(os, call, broken)
        with pytest.raises(SetupBroken, match="cannot be read at offset 5") as caught:
            read(source)
    assert caught.value.code is Code.SETUP_UNREADABLE


def test_opening_waits_for_no_writer(tmp_path: Path) -> None:
    """As it would for that of a FIFO, which is refused."""
    path = tmp_path / "file"
    path.write_bytes(_RAW)
    with open_source(path) as source:
        assert not os.get_blocking(source.descriptor)


def _mapped_pages(path: Path) -> int:
    """Return how many pages of a file this process has mapped."""
    _, _, behind = Path("/proc/self/smaps").read_text(encoding="utf-8").partition(f"{path}\n")
    return int(behind.partition("Rss:")[2].split()[0]) * 1024 // mmap.PAGESIZE


@pytest.fixture
def all_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], FileSource]]:
    """Map all of a file of 64 pages, of which 8 are unmapped at a time."""
    monkeypatch.setattr(sources, "_RELEASE_STEP", 8 * mmap.PAGESIZE)
    monkeypatch.setattr(sources, "_LARGEST_FOLIO", 2 * mmap.PAGESIZE)
    try:
        mmap.mmap(-1, mmap.PAGESIZE).madvise(22)
    except OSError:
        pytest.skip("This kernel has no MADV_POPULATE_READ.")
    if native_core() is None:
        pytest.skip("Without the native core nothing is read in a mapping.")
    path = tmp_path / "mapped"
    path.write_bytes(bytes(64 * mmap.PAGESIZE))
    with open_source(path) as source:

        def mapped() -> FileSource:
            source.view(0, source.size)
            assert _mapped_pages(path) == 64
            return source

        yield mapped


def test_a_view_is_no_copy(all_mapped: Callable[[], FileSource]) -> None:
    """Where the kernel can map the bytes."""
    for offset in (0, 5, mmap.PAGESIZE + 5):
        assert isinstance(all_mapped().view(offset, 100).obj, mmap.mmap)


@pytest.mark.usefixtures("all_mapped")
def test_little_more_is_mapped_than_a_view_has(tmp_path: Path) -> None:
    """A page, or what the kernel maps with it."""
    path = tmp_path / "another"
    path.write_bytes(bytes(4096 * mmap.PAGESIZE))
    with open_source(path) as source:
        source.view(2048 * mmap.PAGESIZE + 5, 100)
        assert 0 < _mapped_pages(path) <= 512


def test_pages_before_an_offset_are_unmapped(all_mapped: Callable[[], FileSource]) -> None:
    """In whole steps, each once, and again after a read further in front."""
    page = mmap.PAGESIZE
    for offset, left in (
        (8 * page - 1, 64),
        (17 * page, 48),
        (23 * page, 64),
        (24 * page, 56),
        (9 * page, 56),
    ):
        source = all_mapped()
        source.release(offset)
        assert (offset, _mapped_pages(source.path)) == (offset, left)
    for _ in range(2):
        source.release(64 * page)
        assert _mapped_pages(source.path) == 0


def test_pages_that_were_used_are_unmapped_in_steps(all_mapped: Callable[[], FileSource]) -> None:
    """With what the kernel may have mapped around them, and nothing else."""
    page = mmap.PAGESIZE
    for forgotten, left in (
        ([(20 * page + 5, 4 * page), (24 * page + 5, 4 * page - 1)], 64),
        ([(0, 1)], 64 - 31),
        ([(40 * page, 8 * page - 1)], 64),
        ([(48 * page - 1, 1)], 64 - 12),
        ([(48 * page, 4 * page), (40 * page, 4 * page)], 64 - 16),
        ([(2 * page, 8 * page)], 64 - 12),
        ([(1 * page, 8 * page)], 64 - 11),
        ([(55 * page, 8 * page)], 64 - 11),
    ):
        source = all_mapped()
        for offset, length in forgotten:
            source.forget(offset, length)
        assert (forgotten, _mapped_pages(source.path)) == (forgotten, left)


def test_no_more_of_a_pipe_is_read_than_is_asked_for() -> None:
    """A read that waits for bytes that nobody needs could wait for ever."""
    stream = io.BytesIO(_RAW)
    source = PipeSource(stream)
    for released, offset, length, end_at in ((0, 0, 10, 10), (7, 7, 5, 12), (7, 8, 20, 28), (3, 9, 1, 28)):
        source.release(released)
        assert source.read(offset, length) == _RAW[offset : offset + length]
        assert stream.tell() == end_at


@pytest.mark.parametrize("closed", [True, False])
def test_standard_input_is_neither_closed_nor_a_terminal(
    monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """Nothing is read from it."""
    main, terminal = os.openpty()
    with os.fdopen(main, "rb", 0), os.fdopen(terminal, "rb", 0) as stream:
        monkeypatch.setattr(sys, "stdin", None if closed else stream)
        with pytest.raises(UsageError, match="terminal or closed"), sources.open_standard_input():
            pass


@pytest.mark.parametrize("released", [0, 1, 7, 300])
def test_a_pipe_is_read_forwards(released: int) -> None:
    """What was released is gone, and all else is there; the size is known at the end."""
    source = PipeSource(io.BytesIO(_RAW))
    assert source.size is None
    assert source.read(0, 10) == _RAW[:10]
    assert source.size is None
    source.release(released)
    start = min(released, 10)
    assert source.read(start, 400) == _RAW[start : start + 400]
    source.release(start)
    if start:
        with pytest.raises(StreamError) as caught:
            source.read(start - 1, 1)
        assert (caught.value.code, caught.value.offset) == (Code.PIPE_BACKWARDS, start - 1)
    assert source.read(start + 1, 3) == _RAW[start + 1 : start + 4]
    assert bytes(source.window(len(_RAW) - 2, 9)) == _RAW[-2:]
    assert source.size == len(_RAW)
    assert source.read(1 << 30, 1) == b""


@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 4097, 9000])
def test_a_cursor_moves_by_what_is_taken(tmp_path: Path, count: int) -> None:
    """A look ahead does not move it."""
    path = tmp_path / "file"
    path.write_bytes(_RAW)
    with open_source(path) as source:
        cursor = Cursor(source, 3)
        assert cursor.peek(count) == _RAW[3 : 3 + count]
        assert cursor.take(count, "it") == _RAW[3 : 3 + count]
        assert cursor.position == 3 + count
        assert cursor.unsigned(3, "it") == int.from_bytes(_RAW[3 + count : 6 + count], "big")
        cursor.position = 1
        assert cursor.take(2, "it") == _RAW[1:3]
        cursor.position = len(_RAW) - 2
        with pytest.raises(StreamError, match=f"ends at offset {len(_RAW)}, in the middle of it") as caught:
            cursor.take(3, "it")
        assert (caught.value.code, caught.value.offset) == (Code.TRUNCATED_ELEMENT, len(_RAW) - 2)
        assert cursor.take(2, "it") == _RAW[-2:]


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"", ""), (b" az~", " az~"), (b"\x1f\x7f", "\\x1f\\x7f"), (b"\0\xff\n", "\\x00\\xff\\x0a")],
)
def test_untrusted_bytes_can_be_printed(raw: bytes, text: str) -> None:
    """Printable ASCII as it is, the rest in hexadecimal."""
    assert readable(raw) == text


_LONGEST = 9 + 255 + PAGE


@pytest.mark.parametrize("window", [_LONGEST, _LONGEST + 1, _LONGEST + 9, 2 * _LONGEST, 3 * PAGE + 77])
@pytest.mark.parametrize("name", ["a", "n" * 255])
@pytest.mark.parametrize("pipe", [False, True])
def test_records_do_not_depend_on_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, name: str, pipe: bool
) -> None:
    """A record at the end of a window is read from the next one; the longest fits into a window."""
    pages = 700
    order = np.random.default_rng(7).permutation(pages)
    full = {int(page) for page in order[:12]}
    parts = [data(5, b"5", name)] if 5 in full else [zero(5, name)]
    for number, page in enumerate(map(int, order)):
        again = name if number % 50 == 0 else ""
        parts.append(data(page, b"%d" % page, again) if page in full else zero(page, again))
    raw = tiny.HEADER + ram_start((name, pages * PAGE, b"")) + ram_part(b"".join(parts)) + end()
    path = tmp_path / "file"
    path.write_bytes(raw)
    with open_source(path) as source:
        whole = read_index(source)
        monkeypatch.setattr(records, "WINDOW_BYTES", window)
        index = read_index(PipeSource(io.BytesIO(raw)) if pipe else source)
    assert index.damage is whole.damage is None
    assert index.sections == whole.sections
    found = index.blocks[0].page_source
    assert np.array_equal(found, whole.blocks[0].page_source)
    assert {page for page in range(pages) if found[page] > 0} == full
    assert all(raw[found[page] :].startswith(b"%d\0" % page) for page in full)
    for page in set(range(pages)) - full:
        assert int.from_bytes(raw[-found[page] : 8 - found[page]], "big") // PAGE == page


_MIB = 1 << 20


def _state(
    bits: int, *, unit: int = _MIB, size: int | None = None, early: bool = True, units: int = 66
) -> bytes:
    """The end of a virtio-mem device's state, as vmstate_virtio_mem_device_early has it, or the other one."""
    plugged = bits.bit_count() * unit if size is None else size
    sanity = struct.pack(">QQQI", 7 << 30, units * unit, unit, 0)
    sizes = struct.pack(">Q", plugged) if early else struct.pack(">QQQ", 9, plugged, 8)
    words = [bits >> 64 * number & (1 << 64) - 1 for number in range((units + 63) // 64)]
    return sanity + sizes + struct.pack(f">{len(words)}Q", *words)


def _pages(raw: bytes, length: int) -> list[bool] | None:
    """Whether each MiB is plugged in."""
    found = _plugged(raw, Block("dev/m", length, PAGE, np.broadcast_to(np.int64(0), length // PAGE)))
    if found is None:
        return None
    return [bool(part.all()) for part in found.reshape(-1, _MIB // PAGE)]


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("bits", [0, 1, 1 << 63, 1 << 64, 1 << 65, 0x3_8000_0000_0000_0005])
@pytest.mark.parametrize("before", [b"", b"virtio state", struct.pack(">Q", 66 * _MIB)])
def test_bits_of_virtio_mem_are_units(early: bool, bits: int, before: bytes) -> None:
    """In 64-bit words, the lowest bit first (put_bitmap() of QEMU)."""
    assert _pages(before + _state(bits, early=early), 66 * _MIB) == [bool(bits >> at & 1) for at in range(66)]


@pytest.mark.parametrize(
    ("raw", "length"),
    [
        (_state(5, size=3 * _MIB), 66 * _MIB),
        (_state(5, size=_MIB), 66 * _MIB),
        (_state(5)[:-1], 66 * _MIB),
        (_state(5, unit=_MIB // 2), 33 * _MIB),
        (_state(5, unit=3 * _MIB), 66 * 3 * _MIB),
        (_state(5), 65 * _MIB),
        (b"", 66 * _MIB),
    ],
)
def test_bits_that_do_not_add_up_are_not_believed(raw: bytes, length: int) -> None:
    """Units are powers of two from 1 MiB on (VIRTIO_MEM_MIN_BLOCK_SIZE), and add up to the plugged size."""
    assert _pages(raw, length) is None


def test_units_of_virtio_mem_may_be_large() -> None:
    """Each stands for all of its pages."""
    raw = _state(0b10, unit=2 * _MIB, units=2)
    assert _pages(raw, 4 * _MIB) == [False, False, True, True]
