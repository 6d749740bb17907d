"""Contract: the list of RAMBlocks is judged to the byte, in streams and in mapped-ram files."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest

from harness.codes import Code
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.tiny_stream import EOS, PAGE, data, end, ram_part, ram_start, zero
from validators.vmstate.stream import PipeSource, SnapshotIndex, open_source, ramlist, read_index
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.index import MappedRegion

_LIST_AT = 8 + len(tiny.head(1, 2, "ram")) + 8


def _codes(index: SnapshotIndex) -> list[Code]:
    damage = [index.damage] if index.damage else []
    return [found.code for found in (*index.anomalies, *damage)]


@pytest.mark.parametrize(
    ("start", "code", "offset"),
    [
        (ram_start(("a", PAGE, b"")), None, 0),
        (ram_start(("a", PAGE, b""), ("b", 2 * PAGE, b"")), None, 0),
        (ram_start(("a", PAGE, b""), total=2 * PAGE), Code.BLOCK_LIST_SUM, _LIST_AT - 8),
        (ram_start(("a", PAGE, b""), ("b", PAGE, b""), total=PAGE), Code.BLOCK_LIST_SUM, _LIST_AT - 8),
        (ram_start(("a", PAGE, b""), ("a", PAGE, b"")), Code.BLOCK_LIST_TWICE, _LIST_AT + 2 + 8),
        (ram_start(("", 3 * PAGE, b"")), Code.BLOCK_LIST_NO_NAME, _LIST_AT),
        (ram_start(("a", 0, b""), total=PAGE), Code.BLOCK_SIZE_EMPTY, _LIST_AT),
    ],
)
def test_the_list_ends_where_its_lengths_add_up(
    tmp_path: Path, start: bytes, code: Code | None, offset: int
) -> None:
    """ram_load_setup() of QEMU takes entries until their lengths are the announced total."""
    index = tiny.read(tmp_path, start, end())
    assert _codes(index) == ([code] if code else [])
    for found in (*index.anomalies, *([index.damage] if index.damage else [])):
        assert found.offset == offset
        assert found.block in ("", "a")


def test_a_word_that_only_flushes_may_follow_a_list_that_is_too_short(tmp_path: Path) -> None:
    """It is no name of a RAMBlock."""
    start = ram_start(("a", PAGE, b""), total=2 * PAGE)
    flush = struct.pack(">Q", fmt.FLAG_MULTIFD_FLUSH)
    index = tiny.read(tmp_path, start.replace(EOS, flush + EOS), end())
    assert _codes(index) == [Code.BLOCK_LIST_SUM]
    assert [block.idstr for block in index.blocks] == ["a"]


def test_a_second_list_is_refused(tmp_path: Path) -> None:
    """QEMU writes one, in the first section of RAM."""
    again = struct.pack(">Q", PAGE | fmt.FLAG_MEM_SIZE) + tiny.name("b") + struct.pack(">Q", PAGE)
    start = ram_start(("a", PAGE, b""))
    index = tiny.read(tmp_path, start, ram_part(again), end())
    assert index.damage is not None
    assert (index.damage.code, index.damage.offset) == (Code.BLOCK_LIST_SECOND, 8 + len(start) + 5)


@pytest.mark.parametrize(("most", "codes"), [(2, []), (1, [Code.BLOCK_LIST_TOO_MANY])])
def test_ram_blocks_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, codes: list[Code]
) -> None:
    """As many as allowed are read."""
    monkeypatch.setattr(fmt, "MAX_BLOCKS", most)
    assert _codes(tiny.read(tmp_path, ram_start(("a", PAGE, b""), ("b", PAGE, b"")), end())) == codes


@pytest.mark.parametrize(("most", "codes"), [(3, []), (2, [Code.BLOCK_SIZE_TOO_LARGE])])
def test_pages_of_all_blocks_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, codes: list[Code]
) -> None:
    """The RAMBlock with which there are too many is named."""
    monkeypatch.setattr(fmt, "MAX_PAGES", most)
    index = tiny.read(tmp_path, ram_start(("a", PAGE, b""), ("b", 2 * PAGE, b"")), end())
    assert _codes(index) == codes
    assert index.damage is None or index.damage.block == "b"


def test_a_length_that_is_no_whole_page_is_named(tmp_path: Path) -> None:
    """A length is a multiple of the target page; the rest of it has no page."""
    index = tiny.read(tmp_path, ram_start(("a", PAGE + 8, b""), total=2 * PAGE), end())
    sizes = [found for found in index.anomalies if found.code is Code.BLOCK_SIZE_NOT_WHOLE]
    assert [(found.offset, found.block) for found in sizes] == [(_LIST_AT, "a")]
    assert index.blocks[0].pages == 1


@pytest.mark.parametrize(
    ("idstr", "free", "readable"),
    [("a", 50, True), ("a", 49, False), ("/dev/a", 0, True)],
)
def test_a_block_that_the_file_cannot_hold_has_no_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idstr: str, free: int, readable: bool
) -> None:
    """Few pages are taken anyway, and memory of a device may have no record: it need not be plugged in."""
    monkeypatch.setattr(fmt, "FREE_PAGES", free)
    index = tiny.read(tmp_path, ram_start((idstr, 50 * PAGE, b"")), ram_part(zero(0, idstr)), end())
    assert _codes(index) == ([] if readable else [Code.TRUNCATED_TOO_SHORT])


@pytest.mark.parametrize("spare", [0, 1])
def test_a_record_has_nine_bytes_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    """A file of just so many bytes may hold the records of all pages; one that is a byte shorter may not."""
    monkeypatch.setattr(fmt, "FREE_PAGES", 0)
    least = len(tiny.HEADER + ram_start(("a", PAGE, b"")) + ram_part(zero(0, "a")) + end())
    pages = least // 9 + 1
    more = b"\0" * (pages * 9 - least - spare)
    records = ram_part(zero(0, "a"))
    index = tiny.read(tmp_path, ram_start(("a", pages * PAGE, b"")), records, end(), more)
    assert _codes(index) == ([Code.TRUNCATED_TOO_SHORT] if spare else [])


_ADVISE = b"\x08\0\3\0\0"


@pytest.mark.parametrize(
    ("size", "is_one"),
    [
        (PAGE, True),
        (2 << 20, True),
        (1 << 34, True),
        (PAGE // 2, False),
        (1 << 35, False),
        (3 * PAGE, False),
    ],
)
def test_page_size_of_a_block_follows_only_for_postcopy(tmp_path: Path, size: int, is_one: bool) -> None:
    """ram_save_setup() writes it for huge pages where postcopy is advised, and it is a power of two."""
    start = ram_start(("a", PAGE, struct.pack(">Q", size)))
    assert (_codes(tiny.read(tmp_path, _ADVISE, start, end())) == []) == is_one
    assert _codes(tiny.read(tmp_path, start, end())) != []


def test_addresses_follow_with_ignored_shared_memory(tmp_path: Path) -> None:
    """With x-ignore-shared each RAMBlock has its guest-physical address."""
    start = ram_start(("a", PAGE, struct.pack(">Q", 5 << 30)))
    with_it = tiny.configuration(tiny.capabilities("x-ignore-shared"))
    index = tiny.read(tmp_path, with_it, start, end())
    assert (_codes(index), index.blocks[0].gpa) == ([], 5 << 30)
    assert tiny.read(tmp_path, ram_start(("a", PAGE, b"")), end()).blocks[0].gpa is None


def test_shared_memory_that_was_left_out_takes_no_room_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with x-ignore-shared is small however large the guest is, and any RAMBlock may be shared."""
    monkeypatch.setattr(fmt, "FREE_PAGES", 0)
    gpa = bytes(8)
    start = ram_start(("shared", 1000 * PAGE, gpa), ("rom", PAGE, gpa))
    with_it = tiny.configuration(tiny.capabilities("x-ignore-shared"))
    index = tiny.read(tmp_path, with_it, start, ram_part(zero(0, "rom")), end())
    assert _codes(index) == []
    assert [bool(block.page_source.any()) for block in index.blocks] == [False, True]


_MAPPED = tiny.configuration(tiny.capabilities("mapped-ram"))
_SHARED = tiny.configuration(tiny.capabilities("mapped-ram", "x-ignore-shared"))
_HEADER_AT = len(tiny.HEADER + _MAPPED) + len(tiny.head(1, 2, "ram")) + 8 + 2 + 8
_BITMAP_AT = _HEADER_AT + 28
# Behind the address, which x-ignore-shared adds to an entry.
_SHARED_HEADER_AT = _HEADER_AT + len(_SHARED) - len(_MAPPED) + 8


def _header(bitmap: int, pages: int, version: int = 1, page_size: int = PAGE) -> bytes:
    return struct.pack(">IQQQ", version, page_size, bitmap, pages)


def _mapped(folder: Path, header: bytes, *, size: int | None = None, **more: Any) -> SnapshotIndex:
    """Index a mapped-ram file with one RAMBlock of three pages at PAGE, whose bitmap is behind the header."""
    bits: int = more.get("bits", 0b101)
    pages: bytes = more.get("pages", b"x" * PAGE + bytes(PAGE) + b"z" * PAGE)
    at: int = more.get("at", PAGE)
    length: int = more.get("length", 3 * PAGE)
    start = tiny.HEADER + _MAPPED + tiny.head(1, 2, "ram", version=4)
    start += struct.pack(">Q", length // PAGE * PAGE | fmt.FLAG_MEM_SIZE)
    start += tiny.name("a") + struct.pack(">Q", length) + header
    start += struct.pack("<Q", bits)
    path = folder / "tiny"
    path.write_bytes((start.ljust(at, b"\0") + pages + EOS + tiny.footer(2) + end())[:size])
    with open_source(path) as source:
        return read_index(source)


def test_a_clear_bit_is_a_zero_page(tmp_path: Path) -> None:
    """The others are where the header has the pages, one behind the other."""
    index = _mapped(tmp_path, _header(_BITMAP_AT, PAGE))
    assert _codes(index) == []
    assert index.blocks[0].page_source.tolist() == [PAGE, -1, 3 * PAGE]
    region = index.mapped[0]
    assert (region.bitmap_offset, region.bitmap_bytes) == (_BITMAP_AT, 8)
    assert (region.pages_offset, region.header_offset) == (PAGE, _HEADER_AT)
    assert index.records == {"page": 2, "zero": 1}


@pytest.mark.parametrize(
    ("header", "codes"),
    [
        (_header(_BITMAP_AT, PAGE, version=0), [Code.MAPPED_RAM_VERSION]),
        (_header(_BITMAP_AT, PAGE, version=2), [Code.MAPPED_RAM_VERSION]),
        (_header(_BITMAP_AT, PAGE, page_size=PAGE * 2), [Code.MAPPED_RAM_PAGE_SIZE]),
        (_header(_BITMAP_AT, PAGE, page_size=PAGE // 2), [Code.MAPPED_RAM_PAGE_SIZE]),
        (_header(_BITMAP_AT + 8, PAGE), [Code.MAPPED_RAM_BITMAP_PLACE, Code.MAPPED_RAM_EMPTY_BITMAP]),
        (_header(_BITMAP_AT - 1, PAGE), [Code.MAPPED_RAM_BITMAP_PLACE, Code.MAPPED_RAM_OVERLAP]),
        (_header(PAGE - 8, PAGE), [Code.MAPPED_RAM_BITMAP_PLACE, Code.MAPPED_RAM_EMPTY_BITMAP]),
        (_header(PAGE - 7, PAGE), [Code.MAPPED_RAM_BITMAP_PLACE, Code.MAPPED_RAM_OVERLAP]),
        (_header(_BITMAP_AT, _BITMAP_AT + 7), [Code.MAPPED_RAM_OVERLAP]),
        (_header(0, 0), [Code.MAPPED_RAM_BITMAP_PLACE, Code.MAPPED_RAM_OVERLAP]),
        (_header(_BITMAP_AT, 1 << 40), [Code.MAPPED_RAM_BEYOND_END]),
        (_header(1 << 40, 2 << 40), [Code.MAPPED_RAM_BITMAP_PLACE, Code.TRUNCATED_BITMAP]),
    ],
)
def test_a_header_that_contradicts_itself_is_named(tmp_path: Path, header: bytes, codes: list[Code]) -> None:
    """Bitmap and pages lie behind the header, do not overlap, and are in the file."""
    index = _mapped(tmp_path, header)
    assert _codes(index) == codes
    for found in (*index.anomalies, *([index.damage] if index.damage else [])):
        empty = found.code is Code.MAPPED_RAM_EMPTY_BITMAP
        assert found.offset == (int.from_bytes(header[12:20], "big") if empty else _HEADER_AT)


def test_pages_begin_at_a_whole_page(tmp_path: Path) -> None:
    """QEMU writes them with O_DIRECT; pages elsewhere are read, and named."""
    index = _mapped(tmp_path, _header(_BITMAP_AT, PAGE + 8), at=PAGE + 8)
    assert _codes(index) == [Code.MAPPED_RAM_UNALIGNED]
    assert index.blocks[0].page_source.tolist() == [PAGE + 8, -1, 3 * PAGE + 8]


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (4 * PAGE, Code.TRUNCATED_RECORD),
        (4 * PAGE - 1, Code.TRUNCATED_PAGES),
        (PAGE, Code.TRUNCATED_PAGES),
        (PAGE - 1, Code.MAPPED_RAM_BEYOND_END),
        (_BITMAP_AT + 8, Code.MAPPED_RAM_BEYOND_END),
        (_BITMAP_AT + 7, Code.TRUNCATED_BITMAP),
    ],
)
def test_a_mapped_ram_file_that_was_cut_says_where(tmp_path: Path, size: int, code: Code) -> None:
    """In the bitmap, before the pages, in them, or behind."""
    index = _mapped(tmp_path, _header(_BITMAP_AT, PAGE), size=size)
    assert index.damage is not None
    assert index.damage.code is code


@pytest.mark.parametrize(("bits", "codes"), [(0b1101, [Code.PAGE_OUTSIDE_BLOCK_BITMAP]), (1 << 63, None)])
def test_no_bit_is_set_behind_the_last_page(tmp_path: Path, bits: int, codes: list[Code] | None) -> None:
    """The bitmap is filled up to a whole word with clear bits."""
    index = _mapped(tmp_path, _header(_BITMAP_AT, PAGE), bits=bits)
    (found,) = [one for one in index.anomalies if one.code is Code.PAGE_OUTSIDE_BLOCK_BITMAP]
    assert (found.offset, found.block) == (_BITMAP_AT, "a")
    assert codes is None or _codes(index) == codes


@pytest.mark.parametrize(("pages", "byte"), [(7, 0), (8, 1), (55, 6), (56, 7)])
def test_a_bit_behind_the_last_page_has_the_place_of_the_last_byte_with_pages(
    tmp_path: Path, pages: int, byte: int
) -> None:
    """That is the first byte of the bitmap that can have a bit too many."""
    size = pages * PAGE
    index = _mapped(tmp_path, _header(_BITMAP_AT, PAGE), bits=1 | 1 << 60, length=size, pages=b"x" * size)
    assert [found.offset for found in index.anomalies] == [_BITMAP_AT + byte]


_NO_DATA = bytes(3 * PAGE)


@pytest.mark.parametrize(
    ("bits", "pages", "named"),
    [
        (0, _NO_DATA, False),
        (0, _NO_DATA[:-1] + b"x", True),
        (0, b"x" + _NO_DATA[1:], True),
        (0, _NO_DATA[:PAGE] + b"x" + _NO_DATA[PAGE + 1 :], True),
        (1, _NO_DATA[:-1] + b"x", False),
    ],
)
@pytest.mark.parametrize("piece", [PAGE, 2 * PAGE, 1 << 22])
def test_an_empty_bitmap_is_told_from_a_guest_of_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, pages: bytes, named: bool, piece: int
) -> None:
    """Finding F2: QEMU writes no bitmap in a background snapshot, but the pages."""
    monkeypatch.setattr(ramlist, "_EMPTY_PIECE", piece)
    index = _mapped(tmp_path, _header(_BITMAP_AT, PAGE), bits=bits, pages=pages)
    assert _codes(index) == ([Code.MAPPED_RAM_EMPTY_BITMAP] if named else [])


@pytest.mark.parametrize(("look", "named"), [(2 * PAGE, False), (2 * PAGE + 1, True)])
def test_the_look_at_pages_of_an_empty_bitmap_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int, named: bool
) -> None:
    """Of a huge guest of zeros not all is read."""
    monkeypatch.setattr(ramlist, "_EMPTY_PIECE", PAGE)
    monkeypatch.setattr(ramlist, "_EMPTY_LOOK", look)
    pages = _NO_DATA[:-1] + b"x"
    index = _mapped(tmp_path, _header(_BITMAP_AT, PAGE), bits=0, pages=pages)
    assert _codes(index) == ([Code.MAPPED_RAM_EMPTY_BITMAP] if named else [])


@pytest.mark.parametrize(
    ("bitmap", "pages", "sound"), [(0, 0, True), (0, PAGE, False), (_BITMAP_AT, 0, False)]
)
def test_shared_blocks_that_were_left_out_have_no_place(
    tmp_path: Path, bitmap: int, pages: int, sound: bool
) -> None:
    """QEMU 11.0 writes 0 for both offsets of a RAMBlock that x-ignore-shared leaves out."""
    entry = ("a", 3 * PAGE, struct.pack(">Q", 0) + _header(bitmap, pages))
    index = tiny.read(tmp_path, _SHARED, ram_start(entry), end())
    assert (_codes(index) == []) == sound
    if sound:
        assert index.blocks[0].page_source.tolist() == [0, 0, 0]
        assert index.layout == "mapped-ram"
        assert index.mapped == {0: MappedRegion(0, 0, 0, _SHARED_HEADER_AT)}


def test_a_block_behind_one_that_was_left_out_is_read(tmp_path: Path) -> None:
    """Such as a ROM, which is not shared."""
    start = tiny.HEADER + _SHARED + tiny.head(1, 2, "ram", version=4)
    start += struct.pack(">Q", 4 * PAGE | fmt.FLAG_MEM_SIZE)
    start += tiny.name("a") + struct.pack(">QQ", 3 * PAGE, 0) + _header(0, 0)
    start += tiny.name("b") + struct.pack(">QQ", PAGE, 0)
    start += _header(len(start) + 28, PAGE) + b"\1" + bytes(7)
    index = tiny.read_file(tmp_path, start.ljust(PAGE, b"\0") + b"x" * PAGE + EOS + tiny.footer(2) + end())
    assert _codes(index) == []
    assert [block.page_source.tolist() for block in index.blocks] == [[0, 0, 0], [PAGE]]


@pytest.mark.parametrize("text", ["b\x1f", "b\x7f", "\xff", "\x1fb", "n" * 254 + "\xff"])
def test_a_mapped_ram_list_that_does_not_go_on_is_blamed_on_the_block_before(
    tmp_path: Path, text: str
) -> None:
    """Its length and header say where the next name begins, and a name can be printed."""
    start = tiny.HEADER + _MAPPED + tiny.head(1, 2, "ram", version=4)
    start += struct.pack(">Q", 2 * PAGE | fmt.FLAG_MEM_SIZE)
    start += tiny.name("a") + struct.pack(">Q", PAGE) + _header(_BITMAP_AT, PAGE) + bytes(8)
    path = tmp_path / "tiny"
    path.write_bytes(start.ljust(2 * PAGE, b"\0") + tiny.name(text) + struct.pack(">Q", PAGE))
    with open_source(path) as source:
        index = read_index(source)
    assert index.damage is not None
    assert (index.damage.code, index.damage.block) == (Code.MAPPED_RAM_LIST_LOST, "a")
    assert index.damage.offset == _HEADER_AT - 10


def test_a_stream_that_ends_behind_its_records_has_them(tmp_path: Path) -> None:
    """Each record's place is that of its data, or of its word where the page is zero."""
    start = ram_start(("a", 3 * PAGE, b""))
    part = ram_part(data(2, b"x", "a") + zero(0))
    index = tiny.read(tmp_path, start, part, end())
    first = 8 + len(start) + 5
    assert _codes(index) == []
    assert index.blocks[0].page_source.tolist() == [-(first + 8 + 2 + PAGE), 0, first + 8 + 2]


@pytest.mark.parametrize(("pages", "words"), [(1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
def test_a_bitmap_has_whole_words_of_64_bits(tmp_path: Path, pages: int, words: int) -> None:
    """mapped_ram_setup_ramblock() of QEMU writes longs."""
    at = 4 * PAGE
    index = _mapped(
        tmp_path, _header(_BITMAP_AT, at), bits=1, at=at, length=pages * PAGE, pages=b"x" * pages * PAGE
    )
    assert _codes(index) == []
    assert index.mapped[0].bitmap_bytes == 8 * words
    assert index.blocks[0].page_source.tolist() == [at] + [-1] * (pages - 1)


@pytest.mark.parametrize("piece", [8, 16, 24])
def test_a_bitmap_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """Each piece stands for the pages behind those of the one before; what follows the bitmap is none."""
    monkeypatch.setattr(ramlist, "_BITMAP_PIECE", piece)
    at, pages, bits = 4 * PAGE, 130, 1 | 1 << 63 | 1 << 64 | 1 << 127 | 1 << 129
    start = tiny.HEADER + _MAPPED + tiny.head(1, 2, "ram", version=4)
    start += struct.pack(">Q", pages * PAGE | fmt.FLAG_MEM_SIZE)
    start += tiny.name("a") + struct.pack(">Q", pages * PAGE) + _header(_BITMAP_AT, at)
    for extra, codes in ((0, []), (1 << 130, [Code.PAGE_OUTSIDE_BLOCK_BITMAP])):
        path = tmp_path / "tiny"
        whole = (start + (bits | extra).to_bytes(24, "little")).ljust(at, b"\xff")
        path.write_bytes(whole + b"x" * pages * PAGE + EOS + tiny.footer(2) + end())
        with open_source(path) as source:
            index = read_index(source)
        assert _codes(index) == codes
        assert [found.offset for found in index.anomalies] == [_BITMAP_AT + 16] * len(codes)
        sources = index.blocks[0].page_source.tolist()
        assert {page: place for page, place in enumerate(sources) if place != -1} == {
            page: at + page * PAGE for page in (0, 63, 64, 127, 129)
        }


def test_the_look_at_empty_bitmaps_is_bounded_for_all_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one RAMBlock used is not there for the next."""
    second = 3 * PAGE
    start = tiny.HEADER + _MAPPED + tiny.head(1, 2, "ram", version=4)
    start += struct.pack(">Q", 2 * PAGE | fmt.FLAG_MEM_SIZE)
    start += tiny.name("a") + struct.pack(">Q", PAGE) + _header(_BITMAP_AT, PAGE) + bytes(8)
    start = start.ljust(2 * PAGE, b"\0") + tiny.name("b") + struct.pack(">Q", PAGE)
    start += _header(2 * PAGE + 10 + 28, second) + bytes(8)
    path = tmp_path / "tiny"
    path.write_bytes(start.ljust(second, b"\0") + b"x" * PAGE + EOS + tiny.footer(2) + end())
    for look, codes in ((2 * PAGE, [Code.MAPPED_RAM_EMPTY_BITMAP]), (PAGE, [])):
        monkeypatch.setattr(ramlist, "_EMPTY_LOOK", look)
        with open_source(path) as source:
            assert _codes(read_index(source)) == codes


@pytest.mark.parametrize(("free", "codes"), [(50, []), (49, [Code.TRUNCATED_TOO_SHORT])])
def test_memory_of_devices_does_not_count_as_pages_of_ram(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, codes: list[Code]
) -> None:
    """Memory that virtio-mem has not plugged in takes no room in the file."""
    monkeypatch.setattr(fmt, "FREE_PAGES", free)
    start = ram_start(("/dev/m", 70 * PAGE, b""), ("a", 50 * PAGE, b""))
    assert _codes(tiny.read(tmp_path, start, ram_part(zero(0, "a")), end())) == codes


def test_the_last_block_before_a_lost_list_is_blamed(tmp_path: Path) -> None:
    """Only its length and header say where the list goes on."""
    start = tiny.HEADER + _MAPPED + tiny.head(1, 2, "ram", version=4)
    start += struct.pack(">Q", 3 * PAGE | fmt.FLAG_MEM_SIZE)
    start += tiny.name("a") + struct.pack(">Q", PAGE) + _header(_BITMAP_AT, PAGE) + bytes(8)
    start = start.ljust(2 * PAGE, b"\0") + tiny.name("b") + struct.pack(">Q", PAGE)
    start += _header(2 * PAGE + 10 + 28, 3 * PAGE) + bytes(8)
    path = tmp_path / "tiny"
    path.write_bytes(start.ljust(4 * PAGE, b"\0") + b"\1\1" + bytes(300))
    with open_source(path) as source:
        index = read_index(source)
    assert index.damage is not None
    assert (index.damage.code, index.damage.block) == (Code.MAPPED_RAM_LIST_LOST, "b")
    assert index.damage.offset == 2 * PAGE


def test_mapped_ram_is_not_read_from_a_pipe_that_has_ended() -> None:
    """Although the size of the file is known by then."""
    start = tiny.HEADER + _MAPPED + tiny.head(1, 2, "ram", version=4)
    start += struct.pack(">Q", PAGE | fmt.FLAG_MEM_SIZE)
    start += tiny.name("a") + struct.pack(">Q", PAGE) + _header(_BITMAP_AT, 200) + bytes(8)
    source = PipeSource(io.BytesIO(start.ljust(200 + PAGE, b"\0")))
    source.read(0, 1 << 20)
    index = read_index(source)
    assert source.size == 200 + PAGE
    assert _codes(index) == [Code.PIPE_MAPPED_RAM]
