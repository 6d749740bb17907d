"""Contract: device state is decoded as QEMU wrote it, and judged by its description in the vmdesc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.codes import Code
from harness.status import Status
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.tiny_stream import described, device, end, subsection
from validators.vmstate import devices
from validators.vmstate.devices import decode_devices, judge_devices
from validators.vmstate.stream import open_source, read_index

_BEYOND = "The description goes beyond the end of the section."
_NO_SIZE = "The description of a field has no name or size."
_NO_FIELDS = "The description has no list of fields."
_OTHER_SIZE = "A struct has another size than in its description."


def _field(size: int, kind: object = "uint8", name: object = "f", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "size": size, **more}


def _struct(size: int, *fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return _field(size, "struct", struct={"fields": list(fields)}, **more)


def _decode(folder: Path, states: dict[str, bytes], *entries: dict[str, Any]) -> dict[str, Any]:
    sections = [device(10 + at, name, state) for at, (name, state) in enumerate(states.items())]
    path = folder / "file"
    path.write_bytes(tiny.HEADER + b"".join(sections) + end(entries))
    with open_source(path) as source:
        index = read_index(source)
        assert index.damage is None
        return decode_devices(source, index)


def _one(folder: Path, state: bytes, *fields: dict[str, Any], **more: Any) -> Any:
    return _decode(folder, {"d": state}, described("d", *fields, **more))["d (0)"]


@pytest.mark.parametrize(
    ("state", "kind", "value"),
    [
        ("00", "bool", False),
        ("01", "bool", True),
        ("0001", "bool", True),
        ("ff", "uint8", 255),
        ("0102", "uint16", 0x0102),
        ("0102", "uint16 le", 0x0201),
        ("8000000000000001", "uint64", (1 << 63) + 1),
        ("ff", "int8", -1),
        ("fffe", "int16", -2),
        ("feff", "int16 le", -2),
        ("0102", "int16 le", 0x0201),
        ("8000000000000000", "int64", -(1 << 63)),
        ("010000000000000000", "uint128", "010000000000000000"),
        ("010000000000000000", "int128", "010000000000000000"),
        ("0102", "buffer", "0102"),
        ("0102", None, "0102"),
        ("0102", 7, "0102"),
    ],
)
def test_a_value_is_read_by_its_type(tmp_path: Path, state: str, kind: object, value: object) -> None:
    """QEMU writes big-endian; of the types of vmstate-types.c only "... le" are not. Others stay bytes."""
    raw = bytes.fromhex(state)
    assert _one(tmp_path, raw, _field(len(raw), kind)) == {"f": value}
    assert type(_one(tmp_path, raw, _field(len(raw), kind))["f"]) is type(value)


@pytest.mark.parametrize(
    ("state", "fields", "result"),
    [
        (b"", [], {}),
        (b"\1\2", [_field(1, name="a"), _field(1, name="b")], {"a": 1, "b": 2}),
        (b"\1\2", [_field(1, array_len=2)], {"f": [1, 2]}),
        (b"\1", [_field(1, array_len=1)], {"f": [1]}),
        (b"", [_field(1, array_len=0)], {"f": []}),
        (b"\1", [_field(1, index=0)], {"f": [1]}),
        (b"\1\2", [_field(1, index=0), _field(1, index=1)], {"f": [1, 2]}),
        (b"\1\2\3", [_field(1, index=0), _field(1, index=1, array_len=2)], {"f": [1, 2, 3]}),
        (b"\1\2", [_field(1), _field(1)], {"f": [1, 2]}),
        (b"\1\2\3", [_field(1), _field(1), _field(1)], {"f": [1, 2, 3]}),
        (b"\1\2", [_struct(2, _field(1, name="a"), _field(1, name="b"))], {"f": {"a": 1, "b": 2}}),
        (b"\1\2", [_struct(1, _field(1, name="a"), array_len=2)], {"f": [{"a": 1}, {"a": 2}]}),
        (b"\1", [_field(1, name="\u00e9")], {r"\xc3\xa9": 1}),
        (b"\1", [_field(1, name="a\n")], {"a\\x0a": 1}),
        (b"\1", [_field(1, name="\ud800")], {"?": 1}),
    ],
)
def test_fields_are_named_and_gathered(
    tmp_path: Path, state: bytes, fields: list[dict[str, Any]], result: dict[str, Any]
) -> None:
    """Arrays are lists, however QEMU splits them; a name twice is a list too. Each name can be printed."""
    assert _one(tmp_path, state, *fields) == result


@pytest.mark.parametrize(
    ("state", "fields", "sentence"),
    [
        (b"\1", [_field(2)], _BEYOND),
        (b"\1\2", [_field(1), _field(2)], _BEYOND),
        (b"\1", [_struct(9)], _BEYOND),
        (b"\1", [_struct(1, _field(2))], _BEYOND),
        (b"\1\2", [_struct(1, _field(2))], _OTHER_SIZE),
        (b"\1\2", [_struct(2, _field(1)), _field(1)], _OTHER_SIZE),
        (b"\1", [_field(-1)], _NO_SIZE),
        (b"\1", [{"name": "f", "type": "uint8"}], _NO_SIZE),
        (b"\1", [_field(1, name=None)], _NO_SIZE),
        (b"\1", [_field(1, array_len=-1)], _NO_SIZE),
        (b"\1", [_field(1, array_len="1")], _NO_SIZE),
        (b"\1", [_field(1, struct={})], _NO_FIELDS),
        (b"\1", [_field(1, struct={"fields": {}})], _NO_FIELDS),
        (b"\1", [_field(1, struct={"fields": [], "subsections": {}})], _NO_FIELDS),
        (b"\1", ["f"], _NO_SIZE),
    ],
)
def test_state_that_does_not_fit_is_kept_as_bytes(
    tmp_path: Path, state: bytes, fields: list[Any], sentence: str
) -> None:
    """What contradicts itself is no field, and no byte of the device is lost."""
    assert _one(tmp_path, state, *fields) == {"error": sentence, "raw": state.hex()}


def _nested(depth: int) -> dict[str, Any]:
    """A field in so many structs, each in the next."""
    entry = _field(1)
    for _ in range(depth):
        entry = _struct(1, entry)
    return entry


def test_structs_are_decoded_to_a_depth_of_32(tmp_path: Path) -> None:
    """The device is the first of them."""
    value = _one(tmp_path, b"\7", _nested(31))
    for _ in range(31):
        value = value["f"]
    assert value == {"f": 7}
    assert _one(tmp_path, b"\7", _nested(32)) == {"error": _NO_FIELDS, "raw": "07"}


def test_subsections_are_decoded_to_a_depth_of_32(tmp_path: Path) -> None:
    """As structs are."""
    entry: dict[str, Any] = {"vmsd_name": "s", "fields": []}
    for _ in range(30):
        entry = {"vmsd_name": "s", "fields": [], "subsections": [entry]}
    state = subsection("s", b"")
    value = _one(tmp_path, state * 31, subsections=[entry])
    for _ in range(31):
        value = value["s"]
    assert value == {}
    deeper = {"vmsd_name": "s", "fields": [], "subsections": [entry]}
    assert _one(tmp_path, state * 32, subsections=[deeper])["error"] == _NO_FIELDS


def test_a_device_that_is_not_described_is_kept_as_bytes(tmp_path: Path) -> None:
    """By its name and instance."""
    found = _decode(tmp_path, {"a": b"\1\2", "b": b"\3"}, described("b", _field(1), instance_id=1))
    assert found == {"a (0)": {"raw": "0102"}, "b (0)": {"raw": "03"}}


_EXTRA = {"vmsd_name": "d/x", "version": 1, "fields": [_field(1, name="y")]}


@pytest.mark.parametrize(
    ("state", "entry", "result"),
    [
        (subsection("d/x", b"\5"), _EXTRA, {"d/x": {"y": 5}}),
        (b"\4" + subsection("d/x", b"\5")[1:], _EXTRA, "not where it is"),
        (subsection("d/z", b"\5"), _EXTRA, "Subsection 'd/x' is not where it is described."),
        (subsection("d/x", b""), _EXTRA, _BEYOND),
        (subsection("d/x", b"")[:-1], _EXTRA, _BEYOND),
        (subsection("d/x", b"")[:3], _EXTRA, _BEYOND),
        (b"\5", _EXTRA, _BEYOND),
        (subsection("d/x", b"\5"), {**_EXTRA, "vmsd_name": 3}, "has no name"),
        (subsection("d/x", b"\5"), "d/x", "has no name"),
        (subsection("d/x", b"\5"), {"vmsd_name": "d/x"}, _NO_FIELDS),
        (subsection("?", b"\5"), {**_EXTRA, "vmsd_name": "\ud800"}, {"?": {"y": 5}}),
        (subsection("!", b"\5"), {**_EXTRA, "vmsd_name": "\ud800"}, "Subsection '?' is not where"),
    ],
)
def test_subsections_follow_the_fields(tmp_path: Path, state: bytes, entry: Any, result: Any) -> None:
    """Each has a type byte, its name and its version before its fields (vmstate_subsection_load())."""
    found = _one(tmp_path, b"\1" + state, _field(1), subsections=[entry])
    if isinstance(result, dict):
        assert found == {"f": 1, **result}
    else:
        assert result in found["error"]
        assert found["raw"] == (b"\1" + state).hex()


def test_devices_share_one_limit_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that no longer fits is left out with a sentence; a smaller one behind it is decoded."""
    monkeypatch.setattr(devices, "_MAX_BYTES", 4)
    states = {"a": b"\1\2\3", "b": b"\4\5", "c": b"\6"}
    found = _decode(tmp_path, states, *(described(name) for name in states))
    assert found["a (0)"] == {}
    assert list(found["b (0)"]) == ["error"]
    assert found["c (0)"] == {}


def test_devices_share_one_limit_of_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as allowed are decoded, and none after them; a field that does not fit uses up nothing."""
    monkeypatch.setattr(devices, "_MAX_ELEMENTS", 5)
    states = {"a": b"\1\2\3", "b": b"\4\5\6", "c": b"\7\x08", "d": b"\x09"}
    found = _decode(
        tmp_path, states, *(described(name, _field(1, array_len=len(raw))) for name, raw in states.items())
    )
    assert found["a (0)"] == {"f": [1, 2, 3]}
    assert found["b (0)"] == {"error": "The devices have too many fields.", "raw": "040506"}
    assert found["c (0)"] == {"f": [7, 8]}
    assert found["d (0)"] == {"error": "The devices have too many fields.", "raw": "09"}


def test_a_field_that_does_not_fit_uses_up_no_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is for the devices behind it."""
    monkeypatch.setattr(devices, "_MAX_ELEMENTS", 4)
    states = {"a": b"\1\2\3", "b": b"\4\5\6"}
    beyond = described("a", _field(1), _field(1, name="g", array_len=3))
    found = _decode(tmp_path, states, beyond, described("b", _field(1, array_len=3)))
    assert found == {"a (0)": {"error": _BEYOND, "raw": "010203"}, "b (0)": {"f": [4, 5, 6]}}


_SOUND = (described("a", _field(2)), described("b", _field(1)))


@pytest.mark.parametrize(
    ("entries", "codes"),
    [
        (_SOUND, []),
        (_SOUND[::-1], [Code.VMDESC_DEVICE_ORDER]),
        (_SOUND[:1], [Code.VMDESC_DEVICE_UNDESCRIBED]),
        ((*_SOUND, described("c")), [Code.VMDESC_DEVICE_ABSENT]),
        ((*_SOUND, _SOUND[1]), [Code.VMDESC_DEVICE_COUNT]),
        ((_SOUND[0], described("b", _field(2))), [Code.VMDESC_DEVICE_SIZE]),
        ((_SOUND[0], described("b", _field(0))), [Code.VMDESC_DEVICE_SIZE]),
        ((_SOUND[0], described("b", _field(-1))), [Code.VMDESC_DEVICE_SIZE]),
        ((_SOUND[0], {**_SOUND[1], "version": 2}), [Code.VMDESC_DEVICE_VERSION]),
        ((_SOUND[0], {**_SOUND[1], "version": "1"}), [Code.VMDESC_DEVICE_VERSION]),
        ((_SOUND[0], {key: _SOUND[1][key] for key in ("name", "instance_id", "fields")}), []),
        (
            (_SOUND[0], {**_SOUND[1], "instance_id": 1}),
            [Code.VMDESC_DEVICE_ABSENT, Code.VMDESC_DEVICE_UNDESCRIBED],
        ),
        (({**_SOUND[1], "version": 2}, _SOUND[0]), [Code.VMDESC_DEVICE_VERSION]),
    ],
)
def test_the_vmdesc_names_the_devices_of_the_stream(
    tmp_path: Path, entries: tuple[dict[str, Any], ...], codes: list[Code]
) -> None:
    """All of them, no other, in their order, with size and version; a vmdesc without versions is old."""
    index = tiny.read(tmp_path, device(10, "a", b"\1\2"), device(11, "b", b"\3"), end(entries))
    assert index.damage is None
    result = judge_devices(index)
    assert [found.code for found in result.violations] == codes
    assert result.status is (Status.FAIL if codes else Status.PASS)
    assert result.facts["devices"] == 2
    for found in result.violations:
        section = index.devices[-1] if "'b'" in found.sentence else index.devices[0]
        places = {
            Code.VMDESC_DEVICE_SIZE: section.data_offset,
            Code.VMDESC_DEVICE_ABSENT: index.vmdesc.offset if index.vmdesc else None,
            Code.VMDESC_DEVICE_ORDER: index.devices[0].offset,
            Code.VMDESC_DEVICE_COUNT: None,
        }
        assert found.file_offset == places.get(found.code, section.offset)


@pytest.mark.parametrize(
    ("tail", "code"),
    [
        (b"\0", Code.VMDESC_ABSENT),
        (b"\0\6\0\0\0\2{]", Code.VMDESC_UNUSABLE),
        (b"\0\6\0\0\0\2[]", Code.VMDESC_UNUSABLE),
    ],
)
def test_a_stream_without_a_vmdesc_is_told_from_one_with_a_bad_one(
    tmp_path: Path, tail: bytes, code: Code
) -> None:
    """The place is where it should begin, behind the end marker, or where it begins."""
    index = tiny.read(tmp_path, device(10, "a"), tail)
    assert index.damage is None and index.end_marker is not None
    (found,) = judge_devices(index).violations
    assert (found.code, found.file_offset) == (code, index.end_marker + 1)


def test_an_old_machine_type_need_not_write_a_vmdesc(tmp_path: Path) -> None:
    """It has no footers and no configuration either; what has one of these must have a vmdesc."""
    ram = tiny.ram_start(("a", tiny.PAGE, b""))
    for footers, configured in ((False, False), (True, False), (False, True)):
        first = tiny.configuration() if configured else b""
        index = tiny.read(tmp_path, first, ram if footers else ram[:-5], b"\0")
        result = judge_devices(index)
        assert (result.status is Status.SKIP) is not (footers or configured)
        assert [found.code for found in result.violations] == [Code.VMDESC_ABSENT] * (footers or configured)


def test_a_vmdesc_that_was_not_reached_is_not_judged(tmp_path: Path) -> None:
    """Devices that were not read cannot be missed."""
    index = tiny.read(tmp_path, device(10, "a"), b"\x09", end([described("a"), described("b")]))
    assert index.damage is not None
    result = judge_devices(index)
    assert (result.status, list(result.violations)) == (Status.SKIP, [])


def test_what_the_reader_noted_is_judged_with_its_place(tmp_path: Path) -> None:
    """Such as a subsection that is not where it is described."""
    index = tiny.read(
        tmp_path, device(10, "a", subsection("d/z", b"\5")), end([described("a", subsections=[_EXTRA])])
    )
    (found,) = judge_devices(index).violations
    assert (found.code, found.file_offset) == (Code.VMDESC_SUBSECTION, index.devices[0].data_offset)
