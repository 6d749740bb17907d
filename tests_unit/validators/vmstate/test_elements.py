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
    described,
    device,
    end,
    footer,
    found_in,
    head,
    ram_start,
    read_file,
    subsection,
)
from validators.vmstate.stream import PipeSource, open_source, read_index
from validators.vmstate.stream import configuration as configuration_reader
from validators.vmstate.stream import format as fmt

_RAM = ram_start(("a", PAGE * 4, b""))


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("version", [2, 3, 4])
def test_version_of_the_header(tmp_path: Path, start: int, version: int) -> None:
    """QEMU writes 3 (QEMU_VM_FILE_VERSION), and refuses others."""
    raw = b"x" * start + b"QEVM" + struct.pack(">I", version) + end()
    expected = [] if version == 3 else [(Code.HEADER_VERSION, start + 4)]
    assert found_in(read_file(tmp_path, raw, start)) == expected


@pytest.mark.parametrize("start", [-1, 1, 40])
def test_a_stream_begins_with_its_magic(tmp_path: Path, start: int) -> None:
    """Anywhere else there is none."""
    with pytest.raises(UsageError, match=f"at offset {start}"):
        read_file(tmp_path, HEADER + end(), start)


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
        ([_RAM, b"\2\0\0\0\2" + EOS], (Code.TRUNCATED_ELEMENT, 8 + len(_RAM) + 13)),
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
    assert found_in(tiny.read(tmp_path, *elements)) == [found]


@pytest.mark.parametrize("kind", [2, 3])
def test_sections_go_on_by_their_number(tmp_path: Path, kind: int) -> None:
    """PART and END have no name; it is that of their START, with its instance and version."""
    start = head(1, 7, "it", 3, 9) + b"state" + footer(7)
    again = bytes([kind]) + struct.pack(">I", 7) + b"more" + footer(7)
    index = tiny.read(tmp_path, start, again, end())
    assert found_in(index) == []
    first, second = index.sections
    assert (second.idstr, second.instance, second.version, second.kind) == ("it", 3, 9, kind)
    assert (second.offset, second.data_offset) == (8 + len(start), 8 + len(start) + 5)
    assert (first.data_end - first.data_offset, second.data_end - second.data_offset) == (5, 4)


def test_the_index_says_what_lies_where(tmp_path: Path) -> None:
    """Places are file offsets, also where the stream does not begin the file."""
    ping = b"\x08\0\2\0\4" + b"\0\0\0\1"
    raw = b"xyz" + HEADER + configuration(machine=b"pc") + ping + _RAM + device(9, "d", b"state") + end()
    index = read_file(tmp_path, raw, 3)
    assert found_in(index) == []
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
    assert found_in(tiny.read(tmp_path, *raw)) == []
    monkeypatch.setattr(fmt, limit, most - 1)
    (found,) = found_in(tiny.read(tmp_path, *raw))
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
    assert found_in(index) == ([(Code.VMDESC_PAGE_SIZE, 0)] if named else [])
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
    assert found_in(tiny.read(tmp_path, raw)) == [found]


@pytest.mark.parametrize("name", [b"p\xe6", b"p c", b"pc\0", b"\x7f"])
def test_a_machine_name_has_printable_letters(tmp_path: Path, name: bytes) -> None:
    """QEMU finds no machine by another one; the file is read on."""
    index = tiny.read(tmp_path, configuration(machine=name), end())
    assert found_in(index) == [(Code.CONFIGURATION_MACHINE, 9)]
    assert index.end_marker is not None


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
    assert found_in(index) == []
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
    assert found_in(tiny.read(tmp_path, raw, end())) == found


def test_unknown_capabilities_are_named_with_their_place(tmp_path: Path) -> None:
    """get_capability() of QEMU refuses a name that it does not know."""
    raw = configuration(tiny.capabilities("mapped-ram", "new-one", "xbzrle"))
    found = [(Code.CONFIGURATION_CAPABILITY, 8 + raw.index(b"\7new-one"))]
    assert found_in(tiny.read(tmp_path, raw, end())) == found


def test_lists_of_the_configuration_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as allowed are read."""
    monkeypatch.setattr(configuration_reader, "_MAX_SUBSECTIONS", 2)
    monkeypatch.setattr(fmt, "MAX_CAPABILITIES", 2)
    two = configuration(_sub("uuid", _UUID), tiny.capabilities("events", "xbzrle"))
    assert found_in(tiny.read(tmp_path, two, end())) == []
    three = configuration(*[_sub("uuid", _UUID)] * 3)
    assert [code for code, _ in found_in(tiny.read(tmp_path, three, end()))] == [
        Code.CONFIGURATION_SUBSECTIONS
    ]


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
    assert found_in(index) == ([(Code.RUN_STATE_UNKNOWN, place)] if named else [])


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
    index = read_index(PipeSource(io.BytesIO(raw))) if how == "pipe" else read_file(tmp_path, raw)
    assert found_in(index) == []
    section = index.sections[0]
    assert section.data_end - section.data_offset == length


def test_a_wrong_description_gives_way_to_the_footer(tmp_path: Path) -> None:
    """The bytes of the stream count, and the vmdesc is found to be wrong elsewhere."""
    for size in (4, 6, 0):
        fields = [{"name": "f", "type": "buffer", "size": size}]
        index = tiny.read(tmp_path, device(9, "d", b"12345"), device(10, "e"), end([described("d", *fields)]))
        assert found_in(index) == []
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
    found = found_in(index)
    assert found == [(code, place + (len(head(4, 9, "d")) + 5 if code is Code.FOOTER_WRONG else 0))]


def test_streams_of_old_machine_types_have_no_footers(tmp_path: Path) -> None:
    """The first section says so for all; lengths are those of the vmdesc."""
    fields = [{"name": "f", "type": "buffer", "size": 5}]
    ram = _RAM[:-5]
    raw = [ram, head(4, 9, "d") + footer(9), head(4, 10, "e") + b"12345"]
    index = tiny.read(tmp_path, *raw, end([described("d", *fields), described("e", *fields)]))
    assert found_in(index) == []
    assert index.footers is False
    assert [section.data_end - section.data_offset for section in index.devices] == [5, 5]
    assert [code for code, _ in found_in(tiny.read(tmp_path, ram, head(4, 9, "d"), end()))] == [
        Code.FOOTER_NOT_FOUND
    ]


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"12345",
        # Bytes that begin as a header and are none: a name that is not printable, a version, a number.
        b"\4\0\0\0\x0b\2a\x1f" + bytes(8),
        b"\4\0\0\0\x0b\1a" + bytes(4) + b"\0\1\0\0",
        b"\4\0\1\0\x0b\1a" + bytes(8),
        b"\4\0\0\0\x0b\0" + bytes(8),
        # The next header, with the longest name, goes beyond the first window, or begins behind it.
        *(b"x" * length for length in (7922, 7923, 7924, 8187, 8192, 70_000)),
    ],
)
@pytest.mark.parametrize("how", ["file", "pipe"])
def test_streams_without_footers_and_vmdesc_are_read_by_their_headers(
    tmp_path: Path, how: str, state: bytes
) -> None:
    """Machine types pc-i440fx-2.0 to 2.2 write neither."""
    names = ["d", "n" * 255, "0000:00:01.3/piix4_pm"]
    devices = [head(4, 9 + at, name) + state for at, name in enumerate(names)]
    raw = HEADER + _RAM[:-5] + b"".join(devices) + b"\0"
    index = read_index(PipeSource(io.BytesIO(raw))) if how == "pipe" else read_file(tmp_path, raw)
    assert found_in(index) == []
    assert (index.footers, index.end_marker, index.vmdesc) == (False, len(raw) - 1, None)
    assert [section.idstr for section in index.devices] == names
    assert {section.data_end - section.data_offset for section in index.devices} == {len(state)}


@pytest.mark.parametrize("last", [b"", b"\1"])
def test_a_cut_stream_without_footers_and_vmdesc(tmp_path: Path, last: bytes) -> None:
    """The end marker is the last byte, so another one there means that the file was cut."""
    raw = [_RAM[:-5], head(4, 9, "dma") + b"5", head(4, 10, "fdc") + b"5" + last]
    index = tiny.read(tmp_path, *raw)
    assert found_in(index) == [(Code.TRUNCATED_SECTION, index.sections[-1].data_end)]
    assert [section.idstr for section in index.devices] == ["dma"]


def test_state_like_a_header_with_a_number_in_use(tmp_path: Path) -> None:
    """Each section has a number of its own: bytes of a section's state that name its own number are state."""
    state = b"5" + head(4, 9, "cpu") + head(4, 2, "cpu") + b"6"
    raw = [_RAM[:-5], head(4, 9, "dma") + state, head(4, 10, "fdc") + b"5\0"]
    index = tiny.read(tmp_path, *raw)
    assert [section.idstr for section in index.devices] == ["dma", "fdc"]
    assert index.devices[0].data_end - index.devices[0].data_offset == len(state)


def test_an_embedded_stream_without_footers_and_vmdesc(tmp_path: Path) -> None:
    """The last byte of the file need not be its own."""
    raw = b"before" + HEADER + _RAM[:-5] + head(4, 9, "d") + b"\0"
    path = tmp_path / "file"
    path.write_bytes(raw)
    with open_source(path) as source:
        assert [code for code, _ in found_in(read_index(source, 6))] == [Code.TRUNCATED_SECTION]


def test_the_description_behind_the_end_marker_counts(tmp_path: Path) -> None:
    """And not another one at the end of the file, of another stream there."""
    own, other = end([described("d")]), end([described("other")])
    index = tiny.read(tmp_path, device(9, "d"), own, other)
    assert found_in(index) == []
    assert index.vmdesc is not None and index.end_marker is not None
    assert index.vmdesc.offset == index.end_marker + 1
    assert [one["name"] for one in index.vmdesc.content["devices"]] == ["d"]


def test_bytes_of_a_pipe_are_dropped_behind_each_section() -> None:
    """However many devices there are."""
    most = 0

    class Watched(PipeSource):
        def read(self, offset: int, length: int) -> bytes:
            nonlocal most
            raw = super().read(offset, length)
            most = max(most, len(self._buffer))
            return raw

    states = b"".join(device(number, "d", bytes(2000)) for number in range(9, 60))
    assert found_in(read_index(Watched(io.BytesIO(HEADER + states + end())))) == []
    assert 0 < most < len(states) // 4
