"""Contract: sizes and subsections follow from the vmdesc, and what it cannot say is not made up."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from harness.codes import Code
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.tiny_stream import described, device, end, subsection
from validators.vmstate.stream import PipeSource, SnapshotIndex, open_source, read_index, subsections, vmdesc
from validators.vmstate.stream import format as fmt
from validators.vmstate.stream.subsections import DescribedSubsection, SubsectionFinder
from validators.vmstate.stream.vmdesc import described_length, field_length, find_vmdesc, parse_vmdesc

_MOST = fmt.MAX_DEVICE_BYTES


def _field(size: Any, **more: Any) -> dict[str, Any]:
    return {"name": "f", "type": "uint8", "size": size, **more}


def _sub(name: Any = "s", *fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"vmsd_name": name, "fields": list(fields), **more}


@pytest.mark.parametrize(
    ("entry", "length"),
    [
        (_field(0), 0),
        (_field(3), 3),
        (_field(3, array_len=0), 0),
        (_field(3, array_len=5), 15),
        (_field(_MOST), _MOST),
        (_field(_MOST + 1), None),
        (_field(-1), None),
        (_field(1, array_len=_MOST), _MOST),
        (_field(1, array_len=_MOST + 1), None),
        (_field(1, array_len=-1), None),
        (_field("3"), None),
        (_field(None), None),
        (_field(3, array_len="5"), None),
        ({"name": "f"}, None),
        ("f", None),
        (None, None),
    ],
)
def test_length_of_a_field(entry: Any, length: int | None) -> None:
    """All elements of an array; nothing that no device of QEMU can have."""
    assert field_length(entry) == length


@pytest.mark.parametrize(
    ("entry", "length"),
    [
        ({"fields": []}, 0),
        ({"fields": [_field(2), _field(3)]}, 5),
        ({"fields": [_field(2)], "subsections": [_sub("abc", _field(4))]}, 2 + 1 + 1 + 3 + 4 + 4),
        ({"fields": [], "subsections": [_sub(""), _sub("a")]}, 6 + 7),
        ({"fields": [], "subsections": [_sub("a", subsections=[_sub("b", _field(1))])]}, 7 + 7 + 1),
        ({"fields": [], "subsections": [_sub("\u00e9")]}, 6 + 2),
        ({"fields": [], "subsections": [_sub("\ud800")]}, 6 + 1),
        ({}, None),
        ({"fields": {}}, None),
        ({"fields": [_field(-1)]}, None),
        ({"fields": [], "subsections": {}}, None),
        ({"fields": [], "subsections": ["a"]}, None),
        ({"fields": [], "subsections": [_sub(3)]}, None),
        ({"fields": [], "subsections": [{"vmsd_name": "a"}]}, None),
    ],
)
def test_length_of_a_device(entry: dict[str, Any], length: int | None) -> None:
    """Its fields; of a subsection also its type byte, the length byte, the name and the 32-bit version."""
    assert described_length(entry) == length


def _nest(depth: int) -> dict[str, Any]:
    entry: dict[str, Any] = _sub("s")
    for _ in range(depth - 1):
        entry = _sub("s", subsections=[entry])
    return entry


def test_subsections_are_added_up_to_a_depth_of_32() -> None:
    """The device is the first of them. Python's own limit is far above."""
    assert described_length({"fields": [], "subsections": [_nest(31)]}) == 31 * 7
    assert described_length({"fields": [], "subsections": [_nest(32)]}) is None
    assert len(SubsectionFinder().find({"fields": [], "subsections": [_nest(31)]})) == 31
    assert SubsectionFinder().find({"fields": [], "subsections": [_nest(32)]}) == []


def _array(size: int, count: int, *subs: dict[str, Any], fields: int = 0) -> dict[str, Any]:
    struct_of = {"fields": [_field(fields)] if fields else [], "subsections": list(subs)}
    return _field(size, array_len=count, struct=struct_of)


@pytest.mark.parametrize(
    ("entry", "places"),
    [
        ({"fields": [_field(5)]}, []),
        ({"fields": [_field(5)], "subsections": [_sub("a")]}, [(5, b"a")]),
        ({"fields": [], "subsections": [_sub("a", _field(2)), _sub("b")]}, [(0, b"a"), (9, b"b")]),
        ({"fields": [], "subsections": [_sub("a", subsections=[_sub("b")])]}, [(0, b"a"), (7, b"b")]),
        ({"fields": [_array(7, 2, _sub("a"))]}, [(0, b"a"), (7, b"a")]),
        ({"fields": [_field(3), _array(8, 2, _sub("a"), fields=1)]}, [(4, b"a"), (12, b"a")]),
        ({"fields": [{**_array(7, 1, _sub("a")), "array_len": 0}]}, []),
        # A struct of another size than its fields have: its subsections cannot be found, what follows can.
        ({"fields": [_array(8, 1, _sub("a"))], "subsections": [_sub("b")]}, [(8, b"b")]),
        ({"fields": [_array(6, 3, _sub("a"))], "subsections": [_sub("b")]}, [(18, b"b")]),
        ({"fields": [_array(4, 3, fields=4)], "subsections": [_sub("b")]}, [(12, b"b")]),
        ({"fields": [], "subsections": [_sub("\ud800"), _sub("b")]}, [(0, b"?"), (7, b"b")]),
        ({"fields": [_array(7, 1, _sub("a")), _array(8, 1, _sub("b"))]}, [(0, b"a")]),
        ({"fields": [_field(-1)], "subsections": [_sub("a")]}, []),
        ({"fields": [], "subsections": [_sub("a"), "b"]}, []),
        ({"fields": [], "subsections": [_sub("a"), {"vmsd_name": "b"}]}, []),
        ({"fields": [], "subsections": [_sub("a"), _sub(None)]}, []),
        ({"fields": {}, "subsections": [_sub("a")]}, []),
        ({"fields": [], "subsections": {}}, []),
    ],
)
def test_subsections_are_where_the_lengths_add_up_to(
    entry: dict[str, Any], places: list[tuple[int, bytes]]
) -> None:
    """In fields that are structs, in elements of arrays, in other subsections, and behind the fields."""
    finder = SubsectionFinder()
    for _ in range(2):
        assert [(found.offset, found.name) for found in finder.find(entry)] == places


@pytest.mark.parametrize(("version", "kept"), [(3, 3), (0, 0), ("3", None), (None, None)])
def test_version_of_a_subsection_is_a_number(version: Any, kept: int | None) -> None:
    """What else stands there says nothing about the version."""
    entry = {"fields": [], "subsections": [_sub("a", version=version)]}
    assert SubsectionFinder().find(entry) == [DescribedSubsection(0, b"a", kept)]


@pytest.mark.parametrize(
    ("entry", "steps", "found"),
    [
        ({"fields": [_field(1), _field(1)], "subsections": [_sub("a"), _sub("b")]}, 4, 2),
        ({"fields": [], "subsections": [_sub("a", subsections=[_sub("b")])]}, 2, 2),
        # For each element one step and those inside of it, and one for the array.
        ({"fields": [_array(8, 3, _sub("a"), fields=1)]}, 3 * 3 + 1, 3),
        ({"fields": [_array(7, 3, _sub("a"))]}, 3 * 2 + 1, 3),
        ({"fields": [_array(9, 3)], "subsections": [_sub("a")]}, 3 + 1 + 1, 1),
        # Without subsections in the first element there are none in the others.
        ({"fields": [_array(1, 1 << 26, fields=1)], "subsections": [_sub("a")]}, 2 + 1 + 1, 1),
    ],
)
def test_steps_are_bounded(
    monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], steps: int, found: int
) -> None:
    """For all devices together: an array of millions costs little, and a device that needs more has none."""
    monkeypatch.setattr(subsections, "_MAX_STEPS", steps)
    finder = SubsectionFinder()
    assert len(finder.find(entry)) == found
    assert finder.find(entry) == []
    for fewer in range(steps):
        monkeypatch.setattr(subsections, "_MAX_STEPS", fewer)
        assert SubsectionFinder().find(entry) == []


def test_subsections_are_found_to_a_depth_of_32_structs() -> None:
    """Those deeper are not; those behind are."""
    inner = _array(7, 1, _sub("a"))
    for _ in range(29):
        inner = _field(7, struct={"fields": [inner]})
    assert [found.offset for found in SubsectionFinder().find({"fields": [inner]})] == [0]
    deeper = {"fields": [_field(7, struct={"fields": [inner]})], "subsections": [_sub("b")]}
    assert [(found.offset, found.name) for found in SubsectionFinder().find(deeper)] == [(7, b"b")]


_DEVICE = described("d", _field(1), subsections=[_sub("d/x", _field(1), version=2)])


def _codes(index: SnapshotIndex) -> list[Code]:
    assert index.damage is None
    return [found.code for found in index.anomalies]


def _stream(*states: bytes) -> bytes:
    out = b"".join(device(10 + number, "d", state, instance=number) for number, state in enumerate(states))
    return tiny.HEADER + out + end([{**_DEVICE, "instance_id": number} for number in range(len(states))])


_STATES = [
    (b"\1" + subsection("d/x", b"\7", version=2), []),
    (b"\1" + subsection("d/x", b"\7", version=3), [Code.VMDESC_SUBSECTION_VERSION]),
    (b"\1" + subsection("d/x", b"\7", version=1), [Code.VMDESC_SUBSECTION_VERSION]),
    (b"\1" + subsection("d/y", b"\7", version=2), [Code.VMDESC_SUBSECTION]),
    (b"\1" + b"\4" + subsection("d/x", b"\7", version=2)[1:], [Code.VMDESC_SUBSECTION]),
    (b"\1" + b"\5\4" + subsection("d/x", b"\7", version=2)[2:], [Code.VMDESC_SUBSECTION]),
    # Of one that is not there no version is compared.
    (b"\1" + subsection("d/y", b"\7", version=3), [Code.VMDESC_SUBSECTION]),
    # A device of another size is reported for that.
    (b"\1" + subsection("d/y", b"\7\7", version=2), []),
]


@pytest.mark.parametrize(("state", "codes"), _STATES)
@pytest.mark.parametrize("pipe", [False, True])
def test_subsections_in_the_stream_are_compared(
    tmp_path: Path, pipe: bool, state: bytes, codes: list[Code]
) -> None:
    """vmstate_subsection_load() finds one by type byte and name, and refuses another version."""
    raw = _stream(state)
    path = tmp_path / "file"
    path.write_bytes(raw)
    if pipe:
        index = read_index(PipeSource(io.BytesIO(raw)))
    else:
        with open_source(path) as source:
            index = read_index(source)
    assert _codes(index) == codes
    assert [found.offset for found in index.anomalies] == [index.devices[0].data_offset + 1] * len(codes)


def test_each_wrong_subsection_is_named(tmp_path: Path) -> None:
    """Also behind one that is not there."""
    entry = described("d", subsections=[_sub("a", version=1), _sub("b", version=1)])
    state = subsection("x", b"") + subsection("b", b"", version=2)
    index = tiny.read(tmp_path, device(9, "d", state), end([entry]))
    assert _codes(index) == [Code.VMDESC_SUBSECTION, Code.VMDESC_SUBSECTION_VERSION]


@pytest.mark.parametrize("pipe", [False, True])
@pytest.mark.parametrize(("most", "judged"), [(22, 2), (21, 1), (11, 1), (10, 0)])
def test_state_that_is_compared_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: bool, most: int, judged: int
) -> None:
    """Whole devices are compared until the bound, and no others; they are no fault of the snapshot."""
    wrong = b"\1" + subsection("d/y", b"\7", version=2)
    assert len(wrong) == 11
    monkeypatch.setattr(subsections, "_MAX_BYTES", most)
    raw = _stream(wrong, wrong)
    path = tmp_path / "file"
    path.write_bytes(raw)
    if pipe:
        index = read_index(PipeSource(io.BytesIO(raw)))
    else:
        with open_source(path) as source:
            index = read_index(source)
    assert _codes(index) == [Code.VMDESC_SUBSECTION] * judged


@pytest.mark.parametrize(
    ("devices", "found"),
    [
        ([described("d")], True),
        ([], True),
        ([{"name": "d"}], False),
        ([{"name": 3, "instance_id": 0}], False),
        ([{"name": "d", "instance_id": "0"}], False),
        (["d"], False),
        ({}, False),
    ],
)
def test_a_description_names_devices_and_their_instances(devices: Any, found: bool) -> None:
    """No other JSON is one."""
    text = json.dumps({"devices": devices}).encode()
    parsed = parse_vmdesc(text, 7)
    assert (parsed.problem == "") is found
    assert (parsed.offset, parsed.length) == (7, len(text))
    assert bool(parsed.content) is found


def test_a_description_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its bytes and by its values, before it is parsed."""
    text = b'{"devices":[],"x":[1,2]}'
    for limit, least in (("MAX_VMDESC_BYTES", len(text)), ("MAX_VMDESC_VALUES", 7)):
        with monkeypatch.context() as patched:
            patched.setattr(fmt, limit, least)
            assert parse_vmdesc(text, 0).problem == ""
            patched.setattr(fmt, limit, least - 1)
            assert parse_vmdesc(text, 0).problem == "it is larger than QEMU writes"


_FIRST, _LAST = end([described("a")]), end([described("b")])


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"xx" + _FIRST, 3),
        (_FIRST + _LAST, len(_FIRST) + 1),
        (_FIRST + b"tail", 1),
        (_FIRST + _LAST[:-1], 1),
        (_FIRST + b"\0\6\0\0\0\3{]}", 1),
        (_FIRST + b'\0\6\0\0\0\2{"', 1),
        # The file ends before the length does.
        (_FIRST[:5] + bytes([_FIRST[5] + 1]) + _FIRST[6:], None),
        (_FIRST[1:], None),
        (b"\0\6\0\0\0\2{}", None),
        (b"\0", None),
    ],
)
def test_the_last_description_of_a_file_counts(tmp_path: Path, raw: bytes, place: int | None) -> None:
    """It begins with the end marker, its type byte and its length; what does not parse is none."""
    path = tmp_path / "file"
    path.write_bytes(raw)
    with open_source(path) as source:
        found = find_vmdesc(source)
    assert (found.offset if found else None) == place
    pipe = PipeSource(io.BytesIO(raw))
    assert find_vmdesc(pipe) is None
    pipe.read(0, len(raw) + 1)
    assert pipe.size == len(raw)
    assert find_vmdesc(pipe) is None


@pytest.mark.parametrize("gap", [0, 1])
def test_a_description_is_looked_for_further_from_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap: int
) -> None:
    """In a second, longer look, and no further."""
    monkeypatch.setattr(vmdesc, "_TAILS", (4, len(_FIRST) + 20))
    path = tmp_path / "file"
    path.write_bytes(b"x" * 50 + _FIRST + b"y" * (20 + gap))
    with open_source(path) as source:
        found = find_vmdesc(source)
    assert (found.offset if found else None) == (None if gap else 51)


def test_few_bytes_are_parsed_to_find_a_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most twice as many as a description may have, from the end backwards."""
    no_description = b"{" + b"x" * (len(_FIRST) - 7)
    decoys = (b"\0\6" + struct.pack(">I", len(no_description)) + no_description) * 2
    path = tmp_path / "file"
    path.write_bytes(_FIRST + decoys)
    for most, found in ((len(_FIRST), False), (len(_FIRST) * 2, True)):
        monkeypatch.setattr(fmt, "MAX_VMDESC_BYTES", most)
        with open_source(path) as source:
            assert (find_vmdesc(source) is not None) is found
    path.write_bytes(_FIRST + decoys[: len(_FIRST)])
    monkeypatch.setattr(fmt, "MAX_VMDESC_BYTES", len(no_description))
    with open_source(path) as source:
        assert find_vmdesc(source) is not None


@pytest.mark.parametrize(("behind", "found"), [((1 << 16) - 6, True), ((1 << 16) - 5, False)])
def test_the_longer_look_holds_the_longest_description(tmp_path: Path, behind: int, found: bool) -> None:
    """And 64 KiB with it."""
    text = b'{"devices":[]}'.ljust(fmt.MAX_VMDESC_BYTES)
    path = tmp_path / "file"
    path.write_bytes(bytes(10) + b"\0\6" + struct.pack(">I", len(text)) + text + bytes(behind))
    with open_source(path) as source:
        assert (find_vmdesc(source) is not None) is found
