"""Contract: each element of a stream is read as QEMU's loader reads it, and what it refuses is named."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest

from harness.codes import Code
from harness.errors import UsageError
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.tiny_stream import (
    EOS,
    HEADER,
    PAGE,
    configuration,
    data,
    described,
    device,
    end,
    footer,
    head,
    ram_part,
    ram_start,
    subsection,
    zero,
)
from validators.vmstate.facts import describe
from validators.vmstate.stream import PipeSource, SnapshotIndex, collector, open_source, read_index
from validators.vmstate.stream import configuration as configuration_reader
from validators.vmstate.stream import format as fmt

_RAM = ram_start(("a", PAGE * 4, b""))


def _found(index: SnapshotIndex) -> list[tuple[Code, int]]:
    damage = [index.damage] if index.damage else []
    return [(found.code, found.offset) for found in (*index.anomalies, *damage)]


def _in_file(folder: Path, raw: bytes, start: int = 0) -> SnapshotIndex:
    path = folder / "file"
    path.write_bytes(raw)
    with open_source(path) as source:
        return read_index(source, start)


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("version", [2, 3, 4])
def test_version_of_the_header(tmp_path: Path, start: int, version: int) -> None:
    """QEMU writes 3 (QEMU_VM_FILE_VERSION), and refuses others."""
    raw = b"x" * start + b"QEVM" + struct.pack(">I", version) + end()
    expected = [] if version == 3 else [(Code.HEADER_VERSION, start + 4)]
    assert _found(_in_file(tmp_path, raw, start)) == expected


@pytest.mark.parametrize("start", [-1, 1, 40])
def test_a_stream_begins_with_its_magic(tmp_path: Path, start: int) -> None:
    """Anywhere else there is none."""
    with pytest.raises(UsageError, match=f"at offset {start}"):
        _in_file(tmp_path, HEADER + end(), start)


@pytest.mark.parametrize(
    ("elements", "found"),
    [
        ([], (Code.TRUNCATED_ELEMENT, 8)),
        ([b"\x09"], (Code.SECTIONS_UNKNOWN_TYPE, 8)),
        ([b"\5"], (Code.SECTIONS_UNKNOWN_TYPE, 8)),
        ([b"\6"], (Code.SECTIONS_UNKNOWN_TYPE, 8)),
        ([b"\x7e"], (Code.SECTIONS_UNKNOWN_TYPE, 8)),
        ([b"\x08\0\0\0\0", b"\0"], (Code.SECTIONS_UNKNOWN_COMMAND, 8)),
        ([b"\x08\0\x0c\0\0", b"\0"], (Code.SECTIONS_UNKNOWN_COMMAND, 8)),
        ([b"\x08\0\2\0\4xxx"], (Code.TRUNCATED_ELEMENT, 13)),
        (
            [device(5, "a"), b"\2" + struct.pack(">I", 5)],
            (Code.SECTIONS_UNKNOWN_NUMBER, 8 + len(device(5, "a"))),
        ),
        ([b"\2" + struct.pack(">I", 5)], (Code.SECTIONS_UNKNOWN_NUMBER, 8)),
        ([b"\3" + struct.pack(">I", 5)], (Code.SECTIONS_UNKNOWN_NUMBER, 8)),
        ([head(1, 2, "ram", version=3) + EOS], (Code.SECTIONS_RAM_VERSION, 8)),
        ([head(1, 2, "ram", version=5) + EOS], (Code.SECTIONS_RAM_VERSION, 8)),
        ([head(1, 2, "ram", 1, 4) + EOS + footer(2), end()], (Code.SECTIONS_RAM_INSTANCE, 8)),
        ([device(5, "a"), device(5, "b"), end()], (Code.SECTIONS_NUMBER_TWICE, 8 + len(device(5, "a")))),
        ([_RAM, device(2, "b"), end()], (Code.SECTIONS_NUMBER_TWICE, 8 + len(_RAM))),
        ([device(5, "a"), configuration(), end()], (Code.CONFIGURATION_PLACE, 8 + len(device(5, "a")))),
        ([configuration(), configuration(), end()], (Code.CONFIGURATION_PLACE, 8 + len(configuration()))),
        ([_RAM, b"\2\0\0\0\2" + EOS + footer(3), end()], (Code.FOOTER_WRONG, 8 + len(_RAM) + 13)),
        ([_RAM, b"\2\0\0\0\2" + EOS + b"\x7f\0\0\0\2", end()], (Code.FOOTER_WRONG, 8 + len(_RAM) + 13)),
        ([_RAM, b"\2\0\0\0\2" + EOS + b"\x7e\0\0\0"], (Code.TRUNCATED_ELEMENT, 8 + len(_RAM) + 13)),
        ([b"\0\6\0\x80\0\1"], (Code.VMDESC_LENGTH, 9)),
        ([b"\0\6\0\x80\0\0"], (Code.TRUNCATED_ELEMENT, 14)),
        ([b"\0\6\0\0\0\3{}"], (Code.TRUNCATED_ELEMENT, 14)),
        ([b"\0\6\0\0"], (Code.TRUNCATED_ELEMENT, 10)),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(
    tmp_path: Path, elements: list[bytes], found: tuple[Code, int]
) -> None:
    """The place is where a person finds the element, or where the file ends in it."""
    assert _found(tiny.read(tmp_path, *elements)) == [found]


@pytest.mark.parametrize("kind", [2, 3])
def test_sections_go_on_by_their_number(tmp_path: Path, kind: int) -> None:
    """PART and END have no name; it is that of their START, with its instance and version."""
    start = head(1, 7, "it", 3, 9) + b"state" + footer(7)
    again = bytes([kind]) + struct.pack(">I", 7) + b"more" + footer(7)
    index = tiny.read(tmp_path, start, again, end())
    assert _found(index) == []
    first, second = index.sections
    assert (second.idstr, second.instance, second.version, second.kind) == ("it", 3, 9, kind)
    assert (second.offset, second.data_offset) == (8 + len(start), 8 + len(start) + 5)
    assert (first.data_end - first.data_offset, second.data_end - second.data_offset) == (5, 4)


def test_the_index_says_what_lies_where(tmp_path: Path) -> None:
    """Places are file offsets, also where the stream does not begin the file."""
    ping = b"\x08\0\2\0\4" + b"\0\0\0\1"
    raw = b"xyz" + HEADER + configuration(machine=b"pc") + ping + _RAM + device(9, "d", b"state") + end()
    index = _in_file(tmp_path, raw, 3)
    assert _found(index) == []
    (command,) = index.commands
    assert (command.name, command.number, command.length) == ("PING", 2, 4)
    assert raw[command.offset : command.offset + len(ping)] == ping
    (section,) = index.devices
    assert raw[section.data_offset : section.data_end] == b"state"
    assert raw[section.offset :].startswith(head(4, 9, "d"))
    assert (index.start, index.end, index.file_size, index.page_size) == (3, len(raw), len(raw), PAGE)
    assert index.end_marker == len(raw) - len(end())
    assert index.vmdesc is not None and index.vmdesc.offset == index.end_marker + 1
    assert (index.configuration.present, index.configuration.machine) == (True, "pc")
    assert (index.footers, index.layout, index.flow) == (True, "stream", "background")
    assert dict(index.mapped) == {}
    assert index.iterables == ()


def test_a_ram_end_section_makes_a_precopy(tmp_path: Path) -> None:
    """A background snapshot has none."""
    last = b"\3" + struct.pack(">I", 2) + EOS + footer(2)
    assert tiny.read(tmp_path, _RAM, last, end()).flow == "precopy"
    other = head(1, 7, "it") + footer(7) + b"\3" + struct.pack(">I", 7) + footer(7)
    index = tiny.read(tmp_path, _RAM, other, end())
    assert index.flow == "background"
    assert [section.idstr for section in index.iterables] == ["it", "it"]


@pytest.mark.parametrize(("limit", "most"), [("MAX_SECTIONS", 3), ("MAX_DEVICES", 2)])
def test_elements_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int) -> None:
    """Sections and commands together, and devices."""
    raw = [_RAM, device(5, "a"), b"\x08\0\2\0\4" + bytes(4), end()]
    monkeypatch.setattr(fmt, limit, most)
    assert _found(tiny.read(tmp_path, *raw)) == []
    monkeypatch.setattr(fmt, limit, most - 1)
    (found,) = _found(tiny.read(tmp_path, *raw))
    assert found[0] in (Code.SECTIONS_TOO_MANY, Code.SECTIONS_TOO_MANY_DEVICES)


def _with_page_bits(bits: int) -> bytes:
    return configuration(subsection("configuration/target-page-bits", struct.pack(">I", bits)))


@pytest.mark.parametrize(
    ("bits", "described_size", "size", "named"),
    [
        (None, None, 4096, False),
        (None, 16384, 16384, False),
        (14, None, 16384, False),
        (14, 16384, 16384, False),
        (14, 4096, 16384, True),
        (12, 16384, 4096, True),
    ],
)
def test_page_size_of_the_configuration_counts(
    tmp_path: Path, bits: int | None, described_size: int | None, size: int, named: bool
) -> None:
    """Where there is none, that of the vmdesc, and else 4 KiB; a contradiction is named."""
    more: dict[str, Any] = {} if described_size is None else {"page_size": described_size}
    elements = [] if bits is None else [_with_page_bits(bits)]
    index = tiny.read(tmp_path, *elements, ram_start(("a", 1 << 16, b"")), end(**more))
    assert _found(index) == ([(Code.VMDESC_PAGE_SIZE, 0)] if named else [])
    assert (index.page_size, index.blocks[0].pages) == (size, (1 << 16) // size)


def _sub(name: str, content: bytes = b"", version: int = 1) -> bytes:
    return subsection(f"configuration/{name}", content, version)


_UUID = bytes(range(16))
_AT = 8 + len(configuration())


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (configuration(machine=b""), (Code.CONFIGURATION_MACHINE, 9)),
        (b"\7" + struct.pack(">I", 4097) + b"m" * 4097, (Code.CONFIGURATION_MACHINE, 9)),
        (
            configuration(_sub("target-page-bits", struct.pack(">I", 9))),
            (Code.CONFIGURATION_PAGE_BITS, _AT + 36),
        ),
        (
            configuration(_sub("target-page-bits", struct.pack(">I", 17))),
            (Code.CONFIGURATION_PAGE_BITS, _AT + 36),
        ),
        (
            configuration(_sub("capabilities", struct.pack(">I", 257))),
            (Code.CONFIGURATION_CAPABILITIES, _AT + 32),
        ),
        (configuration(_sub("other")), (Code.CONFIGURATION_SUBSECTION, _AT)),
        (configuration(_sub("uuid", _UUID[:-1])), (Code.TRUNCATED_ELEMENT, _AT + 24)),
    ],
)
def test_a_configuration_that_no_qemu_writes_ends_the_reading(
    tmp_path: Path, raw: bytes, found: tuple[Code, int]
) -> None:
    """With the place of what is wrong in it."""
    assert _found(tiny.read(tmp_path, raw)) == [found]


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_a_configuration_is_read_whole(tmp_path: Path, bits: int) -> None:
    """Machine, page bits (1 KiB to 64 KiB), capabilities and UUID, in any order."""
    raw = configuration(
        _sub("uuid", _UUID),
        tiny.capabilities("mapped-ram", "x-ignore-shared"),
        _sub("target-page-bits", struct.pack(">I", bits)),
        machine=b"n" * 4096,
    )
    index = tiny.read(tmp_path, raw, end())
    assert _found(index) == []
    found = index.configuration
    assert (found.machine, found.page_bits, found.uuid) == ("n" * 4096, bits, _UUID)
    assert found.capabilities == ("mapped-ram", "x-ignore-shared")
    assert found.subsections == tuple(
        f"configuration/{name}" for name in ("uuid", "capabilities", "target-page-bits")
    )


@pytest.mark.parametrize("version", [0, 2])
def test_subsections_of_the_configuration_have_version_1(tmp_path: Path, version: int) -> None:
    """QEMU refuses others; they are named and read on."""
    raw = configuration(_sub("uuid", _UUID), _sub("uuid", _UUID, version))
    found = [(Code.CONFIGURATION_SUBSECTION_VERSION, _AT + len(_sub("uuid", _UUID)))]
    assert _found(tiny.read(tmp_path, raw, end())) == found


def test_unknown_capabilities_are_named_with_their_place(tmp_path: Path) -> None:
    """get_capability() of QEMU refuses a name that it does not know."""
    raw = configuration(tiny.capabilities("mapped-ram", "new-one", "xbzrle"))
    found = [(Code.CONFIGURATION_CAPABILITY, 8 + raw.index(b"\7new-one"))]
    assert _found(tiny.read(tmp_path, raw, end())) == found


def test_lists_of_the_configuration_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as allowed are read."""
    monkeypatch.setattr(configuration_reader, "_MAX_SUBSECTIONS", 2)
    monkeypatch.setattr(fmt, "MAX_CAPABILITIES", 2)
    two = configuration(_sub("uuid", _UUID), tiny.capabilities("events", "xbzrle"))
    assert _found(tiny.read(tmp_path, two, end())) == []
    three = configuration(*[_sub("uuid", _UUID)] * 3)
    assert [code for code, _ in _found(tiny.read(tmp_path, three, end()))] == [Code.CONFIGURATION_SUBSECTIONS]


def _globalstate(text: bytes) -> bytes:
    return device(9, "globalstate", struct.pack(">I", len(text)) + text)


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (_globalstate(b"running".ljust(32, b"\0")), False),
        (_globalstate(b"paused".ljust(100, b"\0")), False),
        (_globalstate(b"running\0"), False),
        (_globalstate(b"running"), True),
        (_globalstate(b"\0" * 32), True),
        (_globalstate(b"runnin\0".ljust(32, b"\0")), True),
        (_globalstate(b"running" + b"x" * 24 + b"\0"), True),
        (_globalstate(b"x" * 32), True),
        (_globalstate(b"Running\0"), True),
        (head(1, 9, "globalstate") + b"xxxxnone\0" + footer(9), False),
        (device(9, "globalstat", b"xxxxnone\0"), False),
    ],
)
def test_run_state_is_one_of_qemu(tmp_path: Path, raw: bytes, named: bool) -> None:
    """It ends with a NUL within 32 bytes, as global_state_post_load() takes it."""
    index = tiny.read(tmp_path, raw, end())
    place = index.sections[0].data_offset + 4
    assert _found(index) == ([(Code.RUN_STATE_UNKNOWN, place)] if named else [])


_FOOTER = footer(9)


@pytest.mark.parametrize(
    ("state", "length", "behind"),
    [
        (b"12345", 5, [device(10, "e"), end()]),
        (_FOOTER + b"5", 6, [device(10, "e"), end()]),
        (_FOOTER + b"\x09", 6, [device(10, "e"), end()]),
        (_FOOTER * 3, 15, [device(10, "e"), end()]),
        (_FOOTER[:4] + _FOOTER, 9, [device(10, "e"), end()]),
        (b"x", 1, [b"\x08\0\2\0\4" + bytes(4), end()]),
        (_FOOTER + b"\0\0", 7, [device(10, "e"), end()]),
        (_FOOTER + b"\4\0\0\0\1\0", 11, [device(10, "e"), end()]),
        (_FOOTER + b"\4\0\0\0\1\2a\1", 13, [device(10, "e"), end()]),
        (b"x" * 8187, 8187, [device(10, "e"), end()]),
        (b"x" * 8180 + _FOOTER + b"\x09", 8186, [device(10, "e"), end()]),
        (b"x" * 7900 + _FOOTER + b"\x09" + b"y" * 600, 8506, [end()]),
        (b"x" * 70_000, 70_000, [device(10, "e"), end()]),
        (b"12345", 5, [end()]),
        (b"12345", 5, [b"\0"]),
    ],
)
@pytest.mark.parametrize("how", ["described", "pipe", "not described"])
def test_device_state_ends_at_its_footer(
    tmp_path: Path, how: str, state: bytes, length: int, behind: list[bytes]
) -> None:
    """The vmdesc says where, or what follows does: bytes that look like the footer can be state."""
    assert len(state) == length
    raw = HEADER + device(9, "d", state) + b"".join(behind)
    if how == "described" and behind[-1] == end():
        fields = [{"name": "f", "type": "buffer", "size": length}]
        raw = raw[: -len(end())] + end([described("d", *fields)])
    index = read_index(PipeSource(io.BytesIO(raw))) if how == "pipe" else _in_file(tmp_path, raw)
    assert _found(index) == []
    section = index.sections[0]
    assert section.data_end - section.data_offset == length


def test_a_wrong_description_gives_way_to_the_footer(tmp_path: Path) -> None:
    """The bytes of the stream count, and the vmdesc is found to be wrong elsewhere."""
    for size in (4, 6, 0):
        fields = [{"name": "f", "type": "buffer", "size": size}]
        index = tiny.read(tmp_path, device(9, "d", b"12345"), device(10, "e"), end([described("d", *fields)]))
        assert _found(index) == []
        assert index.sections[0].data_end - index.sections[0].data_offset == 5


@pytest.mark.parametrize(
    ("behind", "code"),
    [
        (footer(8) + device(10, "e") + end([described("d", {"name": "f", "size": 5})]), Code.FOOTER_WRONG),
        (footer(8) + b"\x09" + end([described("d", {"name": "f", "size": 5})]), Code.FOOTER_NOT_FOUND),
        (footer(8) + end(), Code.FOOTER_NOT_FOUND),
        (footer(8) + b"\0", Code.TRUNCATED_SECTION),
        (b"", Code.TRUNCATED_SECTION),
    ],
)
def test_a_device_without_its_footer(tmp_path: Path, behind: bytes, code: Code) -> None:
    """With a description and something behind it, its end is known; else the stream is cut or damaged."""
    index = tiny.read(tmp_path, device(8, "c"), head(4, 9, "d") + b"12345" + behind)
    place = 8 + len(device(8, "c"))
    found = _found(index)
    assert found == [(code, place + (len(head(4, 9, "d")) + 5 if code is Code.FOOTER_WRONG else 0))]


def test_streams_of_old_machine_types_have_no_footers(tmp_path: Path) -> None:
    """The first section says so for all; lengths are those of the vmdesc."""
    fields = [{"name": "f", "type": "buffer", "size": 5}]
    ram = _RAM[:-5]
    raw = [ram, head(4, 9, "d") + footer(9), head(4, 10, "e") + b"12345"]
    index = tiny.read(tmp_path, *raw, end([described("d", *fields), described("e", *fields)]))
    assert _found(index) == []
    assert index.footers is False
    assert [section.data_end - section.data_offset for section in index.devices] == [5, 5]
    assert [code for code, _ in _found(tiny.read(tmp_path, ram, head(4, 9, "d"), end()))] == [
        Code.FOOTER_NOT_FOUND
    ]


def test_anomalies_are_kept_up_to_a_limit_and_counted_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each kind; the first ones are kept."""
    monkeypatch.setattr(collector, "ANOMALY_LIMIT", 2)
    outside = zero(9, "a") + zero(8) + zero(7) * 40
    fills = zero(0, fill=1) + zero(1, fill=2) + zero(2, fill=3) * 40
    index = tiny.read(tmp_path, _RAM, ram_part(outside), ram_part(zero(3, "a") + fills), end())
    kinds = [(found.code, found.page_offset) for found in index.anomalies]
    assert [page for code, page in kinds if code is Code.ZERO_FILL_NOT_ZERO] == [0, PAGE]
    assert [page for code, page in kinds if code is Code.PAGE_OUTSIDE_BLOCK_RECORD] == [9 * PAGE, 8 * PAGE]
    assert index.anomaly_counts["zero-fill"] == 42
    assert index.anomaly_counts["page-outside-block"] == 42
    first = next(found for found in index.anomalies if found.code is Code.ZERO_FILL_NOT_ZERO)
    assert "0x01" in first.sentence
    assert (tmp_path / "tiny").read_bytes()[first.offset] == 1


@pytest.mark.parametrize("page", [3, 4])
@pytest.mark.parametrize("more", [0, 3, 40])
def test_pages_lie_inside_of_their_block(tmp_path: Path, page: int, more: int) -> None:
    """The first page behind the last one is outside, in runs of any length."""
    index = tiny.read(tmp_path, _RAM, ram_part(zero(0, "a") + zero(page) + zero(1) * more), end())
    codes = [found.code for found in index.anomalies]
    assert codes == ([Code.PAGE_OUTSIDE_BLOCK_RECORD] if page == 4 else [])
    assert (index.blocks[0].page_source[3] < 0) == (page == 3)


@pytest.mark.parametrize("run", [1, 3, 8, 9, 64, 70, 300])
def test_pages_that_are_there_twice_are_noted(tmp_path: Path, run: int) -> None:
    """With both places, in file order, however long the run is; the last record counts."""
    pages = 400
    start = ram_start(("b", PAGE, b""), ("a", PAGE * pages, b""))
    first = zero(0, "a") + b"".join(zero(page) for page in range(1, run))
    second = zero(0, "a") + b"".join(zero(page) for page in range(1, run)) + zero(0)
    index = tiny.read(tmp_path, start, ram_part(first), ram_part(second), end())
    at = 8 + len(start) + 5
    places = [-at, *(-(at + 11 + 9 * page) for page in range(run - 1))]
    again = [place - len(ram_part(first)) for place in places]
    found = index.duplicates
    assert found.block.tolist() == [1] * (run + 1)
    assert found.page.tolist() == [*range(run), 0]
    assert found.earlier.tolist() == [*places, again[0]]
    assert found.later.tolist() == [*again, again[-1] - (11 if run == 1 else 9)]
    assert found.same_section.tolist() == [False] * run + [True]
    assert index.anomaly_counts["duplicate"] == run + 1
    assert index.blocks[1].page_source[:run].tolist() == [found.later[-1], *again[1:]]
    assert describe(index)["zero pages"] == 2 * run + 1
    assert describe(index)["data pages"] == 0


def test_duplicates_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones are kept, the others are counted."""
    monkeypatch.setattr(collector, "DUPLICATE_LIMIT", 3)
    for records, count in ((zero(0, "a") + zero(0) * 5, 5), (zero(0, "a") + zero(0) * 50, 50)):
        index = tiny.read(tmp_path, _RAM, ram_part(records), end())
        assert len(index.duplicates.page) == 3
        assert index.anomaly_counts["duplicate"] == count


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (0x01, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x41, Code.PAGE_FLAGS_MEANINGLESS),
        (0x40, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x60, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x80, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x100, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x120, Code.PAGE_FLAGS_UNSUPPORTED),
        (0x00, Code.PAGE_FLAGS_MEANINGLESS),
        (0x20, Code.PAGE_FLAGS_MEANINGLESS),
        (0x0A, Code.PAGE_FLAGS_MEANINGLESS),
        (0x18, Code.PAGE_FLAGS_MEANINGLESS),
        (0x30, Code.PAGE_FLAGS_MEANINGLESS),
        (0x400, Code.PAGE_FLAGS_MEANINGLESS),
        (0x28, Code.PAGE_FLAGS_NO_BLOCK),
        (0x22, Code.PAGE_FLAGS_NO_BLOCK),
    ],
)
def test_words_that_are_no_record_end_the_reading(tmp_path: Path, flags: int, code: Code) -> None:
    """What came before them in the section is kept."""
    start = ram_start(("a", PAGE * 4, b""))
    before = b"" if code is Code.PAGE_FLAGS_NO_BLOCK else zero(1, "a")
    index = tiny.read(tmp_path, start, ram_part(before + struct.pack(">Q", PAGE | flags) + bytes(9)))
    assert _found(index) == [(code, 8 + len(start) + 5 + len(before))]
    assert (index.blocks[0].page_source[1] != 0) == bool(before)


@pytest.mark.parametrize(
    "record", [data(1, b"x", "a"), zero(1, "a"), data(0, b"y", "a") + data(1, b"x"), zero(0, "a") + zero(1)]
)
def test_a_stream_cut_in_a_record_says_where(tmp_path: Path, record: bytes) -> None:
    """The end of the file, and the record that is not whole; whole ones before it are kept."""
    whole = HEADER + _RAM + b"\2\0\0\0\2"
    last = max(record.rfind(struct.pack(">Q", PAGE | flags)) for flags in (0x08, 0x02, 0x28, 0x22))
    for cut in {len(record) - 1, min(len(record) - 1, last + 9), last + 8, last + 1}:
        index = _in_file(tmp_path, whole + record[:cut])
        assert _found(index) == [(Code.TRUNCATED_RECORD, len(whole) + last)]
        assert index.damage is not None
        assert f"ends at offset {len(whole) + cut}," in index.damage.sentence
        assert index.blocks[0].page_source[1] == 0
        assert (index.blocks[0].page_source[0] != 0) == (last > 0)


def test_records_of_unknown_blocks_are_named_and_passed_over(tmp_path: Path) -> None:
    """Each record that names one; those that go on with it are counted as pages and go nowhere."""
    records = zero(1, "x") + zero(2) * 40 + zero(3, "a")
    index = tiny.read(tmp_path, _RAM, ram_part(records), end())
    assert _found(index) == [(Code.UNKNOWN_BLOCK_NAMED, 8 + len(_RAM) + 5)]
    assert [place != 0 for place in index.blocks[0].page_source.tolist()] == [False, False, False, True]
    assert (describe(index)["zero pages"], describe(index)["data pages"]) == (42, 0)
