"""Contract: behind a device's state only what can begin a further element counts as its end."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.codes import Code
from tests_unit.support import tiny_stream as tiny
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream import open_source, sections
from validators.vmstate.stream.format import StreamError
from validators.vmstate.stream.index import Section
from validators.vmstate.stream.sections import SectionEnds, _follows, _is_header


def _named(name: bytes) -> bytes:
    return bytes([fmt.FULL]) + struct.pack(">I", 3) + bytes([len(name)]) + name


@pytest.mark.parametrize(
    ("raw", "follows"),
    [
        (b"", True),
        (bytes([fmt.EOF]), True),
        (_named(b"dev")[:5], True),
        (_named(b"a b"), True),
        (_named(b"~"), True),
        (_named(b""), False),
        (_named(b"a\x1f"), False),
        (_named(b"a\x7f"), False),
        (_named(b"\xff"), False),
        (bytes([fmt.PART]), True),
        (bytes([fmt.END]), True),
        (bytes([fmt.COMMAND]), True),
        (b"\x09", False),
        (b"\x7e", False),
    ],
)
def test_what_can_follow(raw: bytes, follows: bool) -> None:
    """Names of sections are printable ASCII and not empty."""
    assert _follows(raw) == follows


_OWN = bytes([fmt.FOOTER]) + struct.pack(">I", 9)


def _end(
    folder: Path, raw: bytes, described: int | None, footers: bool | None, embedded: bool = False
) -> int:
    """Where section 9 ends, whose state begins the file."""
    path = folder / "file"
    path.write_bytes(raw)
    with open_source(path) as source:
        section = Section(fmt.FULL, 9, "d", 0, 1, 0, 0, 0)
        return SectionEnds(source, embedded).find(section, described, footers)


_AGAIN = bytes([fmt.PART, 0, 0, 0, 7])


@pytest.mark.parametrize("footers", [None, True])
@pytest.mark.parametrize(
    "state",
    [
        _OWN + _AGAIN,
        _OWN + _named(b"dev"),
        _OWN * 2 + bytes([fmt.COMMAND]),
        _OWN + bytes([fmt.EOF, fmt.VMDESC]) + b"\0\0\0\2{}",
    ],
)
def test_a_described_end_with_a_footer_counts(tmp_path: Path, state: bytes, footers: bool | None) -> None:
    """Also if bytes of the state look like the footer with an element behind it."""
    assert _end(tmp_path, state + _OWN + _AGAIN, len(state), footers) == len(state)


def test_a_described_end_counts_without_footers(tmp_path: Path) -> None:
    """Machine types up to pc-2.3 have none; then nothing else says where the state ends."""
    assert _end(tmp_path, b"state" + _OWN + _AGAIN, 3, False) == 3
    with pytest.raises(StreamError):
        _end(tmp_path, b"state" + _OWN + _AGAIN, None, False)


@pytest.mark.parametrize(
    ("name", "behind", "is_one"),
    [
        (b"n ~", bytes(8), True),
        (b"cpu", bytes(8), True),
        (b"0000:00:01.1/ide", bytes(8), True),
        (b"/dev", b"\xff" * 4 + b"\0\0\0\xff", True),
        (b"_ab", bytes(8), True),
        (b"n" * 255, bytes(8) + b"more", True),
        (b"nn", bytes(8), False),
        (b" nn", bytes(8), False),
        (b"~nn", bytes(8), False),
        (b"nnn", bytes(7), False),
        (b"nnn", bytes(4), False),
        (b"\x1fnn", bytes(8), False),
        (b"nn\x7f", bytes(8), False),
        (b"nn\x1f", bytes(8), False),
        (b"nnn", bytes(4) + b"\0\0\1\0", False),
        (b"nnn", bytes(4) + b"\1\0\0\0", False),
    ],
)
def test_the_name_and_version_of_a_header(name: bytes, behind: bytes, is_one: bool) -> None:
    """A name begins as one and is long enough, a version is small; the instance may be anything."""
    assert _is_header(b"xx" + bytes([len(name)]) + name + behind, 2) == is_one


@pytest.mark.parametrize(
    ("length", "end"),
    [
        (0, 0),
        (1, 1),
        (299, 299),
        (300, 300),
        (301, 301),
        (2383, 2383),
        (2384, None),
        (9999, None),
    ],
)
def test_the_next_header_is_looked_for_in_so_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, end: int | None
) -> None:
    """Of two windows here; it must be whole in one of them."""
    monkeypatch.setattr(sections, "_FIRST_WINDOW", 300)
    monkeypatch.setattr(fmt, "MAX_DEVICE_BYTES", 2400)
    raw = b"s" * length + bytes([fmt.FULL, 0, 0, 0, 7, 3]) + b"nnn" + bytes(8) + b"s" * 9999
    if end is None:
        with pytest.raises(StreamError):
            _end(tmp_path, raw, None, False)
    else:
        assert _end(tmp_path, raw, None, False) == end


@pytest.mark.parametrize(("bound", "found"), [(299, False), (300, False), (301, True), (2700, True)])
def test_all_searches_for_headers_together_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int, found: bool
) -> None:
    """What the first window had is read again with the second."""
    monkeypatch.setattr(sections, "_FIRST_WINDOW", 300)
    monkeypatch.setattr(fmt, "MAX_SEARCHED_BYTES", bound)
    raw = b"s" * 1000 + bytes([fmt.FULL, 0, 0, 0, 7, 3]) + b"nnn" + bytes(8) + b"s" * 9999
    if found:
        assert _end(tmp_path, raw, None, False) == 1000
    else:
        with pytest.raises(StreamError):
            _end(tmp_path, raw, None, False)


@pytest.mark.parametrize(
    ("raw", "embedded", "end"),
    [
        (b"state\0", False, 5),
        (b"\0", False, 0),
        (b"s" * 299 + b"\0", False, 299),
        (b"s" * 300 + b"\0", False, 300),
        (b"state\1", False, None),
        (b"state\0", True, None),
    ],
)
def test_the_last_section_without_a_footer_ends_at_the_end_marker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes, embedded: bool, end: int | None
) -> None:
    """It is the last byte of a file that has one stream alone."""
    monkeypatch.setattr(sections, "_FIRST_WINDOW", 300)
    if end is None:
        with pytest.raises(StreamError):
            _end(tmp_path, raw, None, False, embedded)
    else:
        assert _end(tmp_path, raw, None, False, embedded) == end


_TABLE_HEAD, _LAST_CHUNK = bytes(4), bytes(8)
_CHUNK = b"\0\0\1\0\0\2\0\x09" + b"\0" * 32
_NOTHING_VALID = b"\0\0\1\0\0\0\0\x09"


@pytest.mark.parametrize(
    ("kind", "raw", "end"),
    [
        (fmt.START, b"\0\0\0\x18" + _AGAIN, 4),
        (fmt.START, b"\xff" * 4 + _AGAIN, 4),
        (fmt.START, b"\0\0\0", None),
        (fmt.PART, b"\xff" * 4 + _AGAIN, 4),
        (fmt.PART, _TABLE_HEAD + _LAST_CHUNK + _AGAIN, 12),
        (fmt.END, _TABLE_HEAD + _CHUNK + _NOTHING_VALID + _CHUNK + _LAST_CHUNK + _AGAIN, 4 + 40 + 8 + 40 + 8),
        (fmt.PART, _TABLE_HEAD + _CHUNK + _LAST_CHUNK[1:], None),
        (fmt.PART, _TABLE_HEAD + _CHUNK[:-1], None),
    ],
)
def test_the_hash_table_of_an_old_pseries_ends_behind_its_last_chunk(
    tmp_path: Path, kind: int, raw: bytes, end: int | None
) -> None:
    """Machine types up to pseries-2.3 have no footer behind it, and no vmdesc has its length."""
    path = tmp_path / "file"
    path.write_bytes(raw)
    section = Section(kind, 9, "spapr/htab", 0, 1, 0, 0, 0)
    with open_source(path) as source:
        if end is None:
            with pytest.raises(StreamError):
                SectionEnds(source, False).find(section, None, False)
        else:
            assert SectionEnds(source, False).find(section, None, False) == end


def _longest(last: bytes) -> bytes:
    return _named(b"n" * 254 + last)


@pytest.mark.parametrize(("last", "end"), [(b"n", 5), (b"\x1f", 5 + 5 + 5 + 1 + 255 + 1)])
def test_the_whole_name_behind_a_footer_is_looked_at(tmp_path: Path, last: bytes, end: int) -> None:
    """It has up to 255 bytes; if one of them cannot be in a name, the footer is state."""
    inside = b"state" + _OWN + _longest(last) + b"x"
    assert len(inside) == 5 + 5 + 5 + 1 + 255 + 1
    assert _end(tmp_path, inside + _OWN + _AGAIN, None, None) == end


@pytest.mark.parametrize("fill", [0, 1, 2, 261, 262, 265, 266, 267, 270])
@pytest.mark.parametrize("window", [300, 304])
def test_a_footer_at_the_end_of_a_window_is_judged_by_what_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fill: int, window: int
) -> None:
    """What lies in the next window counts, so the end does not depend on where windows end."""
    monkeypatch.setattr(sections, "_FIRST_WINDOW", window)
    decoy = b"s" * fill + _OWN + _longest(b"\x1f")
    assert _end(tmp_path, decoy + _OWN + _AGAIN + b"z" * 3000, None, True) == len(decoy)


@pytest.mark.parametrize(
    ("behind", "embedded", "code"),
    [
        # One byte behind the last footer is the end marker of a whole stream.
        (b"\0", False, None),
        (b"\0", True, None),
        (b"\0\0", True, None),
        (b"\0\0", False, Code.TRUNCATED_SECTION),
        (b"\0\0" + b"\0\6\0\0\0\2{}", False, None),
        (b"\x09", False, None),
        (b"", False, None),
    ],
)
def test_a_doubtful_footer_is_the_end_unless_the_file_was_cut(
    tmp_path: Path, behind: bytes, embedded: bool, code: Code | None
) -> None:
    """An end marker without a vmdesc ends a stream in a larger file, and is state where the file was cut."""
    raw = b"state" + _OWN + behind
    if code is None:
        assert _end(tmp_path, raw, None, True, embedded) == 5
        return
    with pytest.raises(StreamError) as caught:
        _end(tmp_path, raw, None, True, embedded)
    assert (caught.value.code, caught.value.offset) == (code, 0)


def test_the_bytes_of_all_searches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When they are used up, one window is searched and no more."""
    monkeypatch.setattr(sections, "_FIRST_WINDOW", 512)
    raw = b"s" * 600 + _OWN + _AGAIN + b"z" * 4000
    for bytes_left, found in ((513, True), (512, False)):
        monkeypatch.setattr(fmt, "MAX_SEARCHED_BYTES", bytes_left)
        if found:
            assert _end(tmp_path, raw, None, True) == 600
        else:
            with pytest.raises(StreamError):
                _end(tmp_path, raw, None, True)


@pytest.mark.parametrize(("length", "found"), [(1500, True), (3000, False)])
def test_the_search_for_one_end_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, found: bool
) -> None:
    """No device has more state, so the largest window is searched once."""
    monkeypatch.setattr(sections, "_FIRST_WINDOW", 512)
    monkeypatch.setattr(fmt, "MAX_DEVICE_BYTES", 2048)
    path = tmp_path / "file"
    path.write_bytes(b"s" * length + _OWN + _AGAIN + b"z" * 4000)
    with open_source(path) as source:
        ends = SectionEnds(source, embedded=False)
        assert ends._search(0, _OWN) == (length if found else None)
    assert ends._left == fmt.MAX_SEARCHED_BYTES - 512 - 2048


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 9])
def test_a_footer_may_begin_inside_of_what_looks_like_it(tmp_path: Path, length: int) -> None:
    """The number of a section can be such that all of its footer's bytes are alike."""
    path = tmp_path / "file"
    path.write_bytes(b"~" * (length + 5) + _AGAIN)
    with open_source(path) as source:
        section = Section(fmt.FULL, 0x7E7E7E7E, "d", 0, 1, 0, 0, 0)
        assert SectionEnds(source, embedded=False).find(section, None, True) == length


@pytest.mark.parametrize(("start", "code"), [(0, Code.TRUNCATED_SECTION), (1, None)])
def test_a_stream_behind_other_bytes_may_end_before_the_file(
    tmp_path: Path, start: int, code: Code | None
) -> None:
    """A stream that begins the file ends with it, so what looks like its end marker is device state."""
    raw = b"x" * start + tiny.HEADER + tiny.device(9, "d", b"state") + b"\0" + b"other content"
    index = tiny.read_file(tmp_path, raw, start)
    assert (index.damage.code if index.damage else None) == code
