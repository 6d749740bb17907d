"""Contract: `diff` names all that differs between two files, and nothing else."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from harness.errors import SnapshotWrong, UsageError
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.tiny_stream import (
    HEADER,
    PAGE,
    configuration,
    data,
    described,
    device,
    end,
    ram_part,
    ram_start,
    subsection,
    zero,
)
from validators.vmstate import diff
from validators.vmstate.diff import Difference, diff_files
from validators.vmstate.stream_diff import FieldChange


def _diff(folder: Path, first: bytes, second: bytes, offsets: tuple[int, int] = (0, 0)) -> Difference:
    paths = folder / "first", folder / "second"
    for path, raw in zip(paths, (first, second), strict=True):
        path.write_bytes(raw)
    return diff_files(*paths, offsets=offsets)


def _ram(*records: bytes, size: int = 4, more: str = "") -> bytes:
    blocks = [("a", size * PAGE, b"")] + ([(more, PAGE, b"")] if more else [])
    return HEADER + ram_start(*blocks) + ram_part(b"".join(records)) + end()


@pytest.mark.parametrize(
    ("first", "second", "pages"),
    [
        ([data(1, b"x", "a")], [data(1, b"x", "a")], []),
        ([data(1, b"x", "a")], [data(1, b"y", "a")], [PAGE]),
        ([data(1, b"", "a")], [zero(1, "a")], []),
        ([zero(1, "a")], [], [PAGE]),
        ([data(0, b"x", "a"), data(3, b"y")], [data(3, b"y", "a"), data(0, b"x")], []),
        ([data(0, b"x", "a"), data(3, b"y")], [data(0, b"y", "a"), data(3, b"x")], [0, 3 * PAGE]),
    ],
)
def test_pages_are_compared_by_their_content(
    tmp_path: Path, first: list[bytes], second: list[bytes], pages: list[int]
) -> None:
    """A page of zeros is one however it is written, and a missing one is none."""
    found = _diff(tmp_path, _ram(*first), _ram(*second))
    assert found.pages == ({"a": pages} if pages else {})
    assert (found.total_pages, found.page_size, found.same) == (len(pages), PAGE, not pages)
    assert found.fields == ()


@pytest.mark.parametrize(
    ("second", "path", "value"),
    [
        (_ram(zero(1, "a", fill=0x55), data(2, b"y")), "broken rule zero-fill", 1),
        (_ram(zero(1, "a"), data(2, b"x"), data(2, b"y")), "broken rule duplicate", 1),
        (_ram(zero(1, "a"), data(2, b"y")) + b"xy", "bytes behind the end", 2),
    ],
)
def test_what_is_wrong_in_one_file_alone_is_a_difference(
    tmp_path: Path, second: bytes, path: str, value: object
) -> None:
    """Pages are compared by the last record of each and zero pages as zeros, so they show none of it."""
    first = _ram(zero(1, "a"), data(2, b"y"))
    found = _diff(tmp_path, first, second)
    assert (found.pages, found.same) == ({}, False)
    assert found.stream == (FieldChange(path, None, value),)
    assert _diff(tmp_path, second, second).same


def test_pages_that_an_ordinary_save_has_twice_are_no_difference(tmp_path: Path) -> None:
    """A guest that runs writes to them again; the last record of each is what it is restored with."""
    ended = b"\3" + struct.pack(">IQ", 2, 0x10) + b"\x7e" + struct.pack(">I", 2)
    once, twice = (
        _ram(*records).replace(end(), ended + end())
        for records in ([data(1, b"y", "a")], [data(1, b"x", "a"), data(1, b"y")])
    )
    assert _diff(tmp_path, once, twice).same


def test_blocks_of_one_file_or_of_another_length_are_named(tmp_path: Path) -> None:
    """Their pages are not compared."""
    found = _diff(tmp_path, _ram(data(1, b"x", "a"), more="b"), _ram(data(1, b"y", "a"), size=5))
    assert (found.only_first, found.only_second, found.pages) == (("a", "b"), ("a",), {})
    assert not found.same
    other = _diff(tmp_path, _ram(), _ram(more="b"))
    assert (other.only_first, other.only_second, other.same) == ((), ("b",), False)


def test_pages_of_another_size_all_differ(tmp_path: Path) -> None:
    """The target is another one."""
    found = _diff(tmp_path, _ram(zero(1, "a")), _ram(zero(1, "a")).replace(end(), end(page_size=PAGE // 2)))
    assert found.pages == {"a": [0, PAGE, 2 * PAGE, 3 * PAGE]}
    assert found.page_size == PAGE


def test_streams_begin_at_their_offsets(tmp_path: Path) -> None:
    """Each in its file."""
    assert _diff(tmp_path, b"xyz" + _ram(), b"12345" + _ram(), (3, 5)).same
    with pytest.raises(UsageError, match="at offset 3"):
        _diff(tmp_path, b"xyz" + _ram(), b"12345" + _ram(), (3, 3))


def test_a_damaged_file_is_not_compared(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(SnapshotWrong, match="second' cannot be compared"):
        _diff(tmp_path, _ram(), _ram()[: -len(end())])


def _field(size: int, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "uint8", "size": size, **more}


def _with(state: bytes, *fields: dict[str, Any]) -> bytes:
    return HEADER + device(9, "d", state) + end([described("d", *fields)])


_INNER = _field(1, "s", struct={"fields": [_field(1, "x")]}, array_len=2, type="struct")


@pytest.mark.parametrize(
    ("first", "second", "changes"),
    [
        (_with(b"\1", _field(1)), _with(b"\1", _field(1)), []),
        (_with(b"\1", _field(1)), _with(b"\2", _field(1)), [("d (0).f", 1, 2)]),
        (_with(b"\1", _field(1)), _with(b"\1", _field(1, "g")), [("d (0).f", 1, None), ("d (0).g", None, 1)]),
        (
            _with(b"\1\2", _field(1, array_len=2)),
            _with(b"\1\3", _field(1, array_len=2)),
            [("d (0).f[1]", 2, 3)],
        ),
        (
            _with(b"\1\2", _field(1, array_len=2)),
            _with(b"\1", _field(1, array_len=1)),
            [("d (0).f", [1, 2], [1])],
        ),
        (_with(b"\1\2", _INNER), _with(b"\1\3", _INNER), [("d (0).s[1].x", 2, 3)]),
        (_with(b"\1\2", _INNER), _with(b"\4\2", _INNER), [("d (0).s[0].x", 1, 4)]),
    ],
)
def test_device_fields_are_compared_by_name(
    tmp_path: Path, first: bytes, second: bytes, changes: list[tuple[str, Any, Any]]
) -> None:
    """Down to the value that differs; arrays of another length differ as a whole."""
    found = _diff(tmp_path, first, second)
    assert found.fields == tuple(FieldChange(*change) for change in changes)
    assert found.same == (not changes)


def test_field_changes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones are kept; deep values are compared as a whole."""
    monkeypatch.setattr(diff, "_MAX_FIELDS", 2)
    entry = _field(1, array_len=3)
    found = _diff(tmp_path, _with(b"\1\2\3", entry), _with(b"\4\5\6", entry))
    assert [change.path for change in found.fields] == ["d (0).f[0]", "d (0).f[1]"]
    for depth, path in ((1, "a"), (2, "a.b"), (3, "a.b[0]"), (4, "a.b[0].c"), (5, "a.b[0].c")):
        before, after = ({"a": {"b": [{"c": value}]}} for value in (1, 2))
        (change,) = diff._changes("", before, after, depth)
        assert change.path == path


def _parts(*elements: bytes, devices: tuple[dict[str, Any], ...] = ()) -> bytes:
    return HEADER + b"".join(elements) + end(devices)


_BITS = subsection("configuration/target-page-bits", struct.pack(">I", 12))
_UUID = subsection("configuration/uuid", bytes(16))
_SUB = described("d", subsections=[{"vmsd_name": "d/x", "version": 1, "fields": []}])
_SUB_BEHIND = {**_SUB, "fields": [_field(1)]}
_PING = b"\x08\0\2\0\4" + bytes(4)


@pytest.mark.parametrize(
    ("first", "second", "changes"),
    [
        (_parts(configuration()), _parts(configuration()), []),
        (
            _parts(configuration(machine=b"a")),
            _parts(configuration(machine=b"b")),
            [("machine", "a", "b")],
        ),
        (_parts(configuration()), _parts(), [("configuration", "present", None)]),
        (
            _parts(configuration(tiny.capabilities("events"))),
            _parts(configuration(tiny.capabilities())),
            [("capabilities", ["events"], [])],
        ),
        (
            _parts(configuration(tiny.capabilities("xbzrle", "events"))),
            _parts(configuration(tiny.capabilities("events", "xbzrle"))),
            [],
        ),
        (_parts(configuration(tiny.capabilities("mapped-ram"))), _parts(configuration()), []),
        (
            _parts(configuration(_BITS)),
            _parts(configuration()),
            [
                ("target page bits", 12, None),
                ("configuration subsections", ["configuration/target-page-bits"], []),
            ],
        ),
        (
            _parts(configuration(_UUID)),
            _parts(configuration(_UUID[:-1] + b"\1")),
            [("UUID", "00" * 16, "00" * 15 + "01")],
        ),
        (_parts(_PING), _parts(), [("commands", ["PING (4 bytes)"], [])]),
        (
            _parts(device(9, "d"), devices=(described("d"),)),
            _parts(device(9, "d", version=2), devices=(described("d"),)),
            [("section d (0)", "version 1", "version 2")],
        ),
        (
            _parts(device(9, "d"), devices=(described("d"),)),
            _parts(),
            [("section footers", True, False), ("section d (0)", "version 1", None)],
        ),
        (
            _parts(device(9, "d", subsection("d/x", b"")), devices=(_SUB,)),
            _parts(device(9, "d", subsection("d/x", b"", 2)), devices=(_SUB,)),
            [("subsection 0 of d (0)", "d/x, version 1", "d/x, version 2")],
        ),
        (
            _parts(device(9, "d", b"\7" + subsection("d/x", b"")), devices=(_SUB_BEHIND,)),
            _parts(device(9, "d", b"\7" + subsection("d/x", b"", 2)), devices=(_SUB_BEHIND,)),
            [("subsection 0 of d (0)", "d/x, version 1", "d/x, version 2")],
        ),
        (
            _parts(device(9, "d", subsection("d/x", b"")), devices=(_SUB,)),
            _parts(device(9, "d", b""), devices=(described("d"),)),
            [("subsection 0 of d (0)", "d/x, version 1", None)],
        ),
    ],
)
def test_parts_of_the_stream_are_compared(
    tmp_path: Path, first: bytes, second: bytes, changes: list[tuple[str, Any, Any]]
) -> None:
    """Configuration, commands, sections and subsections; not the layout, nor the order of capabilities."""
    found = _diff(tmp_path, first, second)
    assert list(found.stream) == [FieldChange(*change) for change in changes]
    if changes:
        assert not found.same


def test_ram_in_more_parts_is_the_same(tmp_path: Path) -> None:
    """How many sections carry RAM depends on time."""
    start = HEADER + ram_start(("a", 4 * PAGE, b""))
    first = start + ram_part(zero(0, "a") + zero(1)) + end()
    second = start + ram_part(zero(0, "a")) + ram_part(zero(1, "a")) + end()
    assert _diff(tmp_path, first, second).same
