"""Contract: each rule of the structure is judged from the index alone, with the place of what breaks it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.codes import Code
from harness.status import Status
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer
from validators import verdict
from validators.oracles.o4_structure import structure
from validators.oracles.o4_structure.structure import check_structure
from validators.verdict import CheckResult
from validators.vmstate.stream.format import END, FULL, PART, START
from validators.vmstate.stream.index import (
    Anomaly,
    Block,
    Command,
    Configuration,
    Duplicates,
    Section,
    SnapshotIndex,
)
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import PipeSource
from validators.vmstate.virtio_mem import Unplugged

_RIGHT = read_index(PipeSource(io.BytesIO(Writer(Guest(agent=False)).stream())))
_DAMAGE = Anomaly(Code.TRUNCATED_SHRANK, "It shrank.", 4711)
_MIB = 1 << 20


def _check(index: SnapshotIndex, name: str, unplugged: Unplugged | None = None) -> CheckResult:
    (found,) = (check for check in check_structure(index, unplugged or {}) if check.name == name)
    return found


def _codes(index: SnapshotIndex, name: str, unplugged: Unplugged | None = None) -> list[Code]:
    return [violation.code for violation in _check(index, name, unplugged).violations]


def _section(kind: int, idstr: str = "ram", number: int = 2, length: int = 0, offset: int = 100) -> Section:
    return Section(kind, number, idstr, 0, 4, offset, offset + 5, offset + 5 + length)


def _index(**changes: Any) -> SnapshotIndex:
    return replace(_RIGHT, **changes)


def _blocks(*sources: Sequence[int], size: int = PAGE) -> tuple[Block, ...]:
    return tuple(
        Block(f"b{number}", len(source) * size, size, np.array(source, np.int64), 50 + number)
        for number, source in enumerate(sources)
    )


def test_right_stream_passes_every_rule() -> None:
    """In a fixed order, by names that are the same for every file."""
    found = check_structure(_RIGHT)
    assert {check.status for check in found} == {Status.PASS}
    assert [check.name for check in found] == [
        "header", "configuration", "block-list", "block-size", "unknown-block", "page-outside-block",
        "page-flags", "zero-fill", "mapped-ram", "page-twice", "sections", "section-order", "saved-after-t0",
        "footer", "truncated", "trailing-bytes", *(check.name for check in found[16:-4]), "run-state",
        "ram-not-empty", "page-missing", "page-unplugged",
    ]  # fmt: skip


def test_anomalies_of_a_rule_are_all_counted() -> None:
    """The reader keeps some and counts all; a rule takes its own damage, and nothing of another rule."""
    noted = Anomaly(Code.ZERO_FILL_NOT_ZERO, "It is not zero.", 99, "pc.ram", PAGE)
    other = Anomaly(Code.TRUNCATED_SHRANK, "It shrank.", 98)
    index = _index(anomalies=(noted, other), anomaly_counts={"zero-fill": 7})
    result = _check(index, "zero-fill")
    assert (result.total, len(result.violations)) == (7, 1)
    found = result.violations[0]
    assert (found.check, found.code, found.sentence) == ("zero-fill", noted.code, "It is not zero.")
    assert (found.block, found.offset, found.file_offset) == ("pc.ram", PAGE, 99)
    assert _check(replace(index, damage=replace(noted, offset=100)), "zero-fill").total == 8
    assert _check(replace(index, damage=_DAMAGE), "zero-fill").total == 7
    assert _check(replace(index, anomaly_counts={}), "zero-fill").total == 1


_BY_THE_READER = (
    "header", "configuration", "block-list", "block-size", "unknown-block", "page-outside-block",
    "page-flags", "zero-fill", "mapped-ram", "sections", "footer", "truncated", "run-state",
)  # fmt: skip


@pytest.mark.parametrize("name", _BY_THE_READER)
def test_what_the_reader_noted_fails_its_rule(name: str) -> None:
    """Whether it stopped the reader or not."""
    code = next(code for code in Code if code.subject == name)
    noted = Anomaly(code, "It is broken.", 99)
    assert _codes(_index(anomalies=(noted,)), name) == [code]
    assert _codes(_index(damage=noted), name) == [code]


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("footers", [False, True])
def test_configuration_and_footers_go_together(present: bool, footers: bool) -> None:
    """A machine type has both or neither, so one without the other is a stream that QEMU does not load."""
    index = _index(configuration=Configuration(present), footers=footers, start=8)
    configuration, footer = _check(index, "configuration"), _check(index, "footer")
    assert [(found.code, found.file_offset) for found in configuration.violations] == (
        [(Code.CONFIGURATION_ABSENT, 8)] if footers and not present else []
    )
    assert [(found.code, found.file_offset) for found in footer.violations] == (
        [(Code.FOOTER_ABSENT, index.sections[0].data_end)] if present and not footers else []
    )


def test_missing_footers_need_sections_and_a_whole_stream() -> None:
    """A stream that ends before its first section, or is damaged, has no footer to be missing."""
    index = _index(footers=False)
    assert _codes(index, "footer") == [Code.FOOTER_ABSENT]
    assert _codes(replace(index, sections=()), "footer") == []
    assert _codes(replace(index, damage=_DAMAGE), "footer") == []


_OPEN, _PING, _ADVISE, _LISTEN, _SWITCHOVER = 1, 2, 3, 4, 11
_PLACE, _LENGTH = Code.SECTIONS_COMMAND_PLACE, Code.SECTIONS_COMMAND_LENGTH


@pytest.mark.parametrize(
    ("commands", "flow", "codes"),
    [
        ([(_OPEN, 0)], "precopy", []),
        ([(_OPEN, 0)], "background", [_PLACE]),
        ([(_OPEN, 1)], "precopy", [_LENGTH]),
        ([(_OPEN, 0), (_PING, 4)], "precopy", []),
        ([(_PING, 4)], "precopy", [_PLACE]),
        ([(_PING, 4), (_OPEN, 0)], "precopy", [_PLACE]),
        ([(_OPEN, 0), (_PING, 4), (_PING, 4)], "precopy", []),
        ([(_OPEN, 0), (_PING, 3)], "precopy", [_LENGTH]),
        ([(_ADVISE, 0)], "precopy", []),
        ([(_ADVISE, 16)], "precopy", []),
        ([(_ADVISE, 8)], "precopy", [_LENGTH]),
        ([(_ADVISE, 16), (_ADVISE, 16)], "precopy", [_PLACE]),
        ([(_ADVISE, 16)], "background", [_PLACE]),
        ([(_LISTEN, 0)], "precopy", [_PLACE]),
        ([(7, 4)], "precopy", [_PLACE]),
        ([(_SWITCHOVER, 0)], "precopy", []),
        ([(_SWITCHOVER, 0)], "background", []),
        ([(_SWITCHOVER, 1)], "background", [_LENGTH]),
        ([(_LISTEN, 0), (_SWITCHOVER, 1)], "precopy", [_PLACE, _LENGTH]),
    ],
)
def test_commands(commands: list[tuple[int, int]], flow: str, codes: list[Code]) -> None:
    """Each has its length, and stands only where QEMU writes it into a file."""
    sections = [_section(START), _section(PART), *([_section(END)] if flow == "precopy" else [])]
    made = tuple(Command(number, length, 60 + at) for at, (number, length) in enumerate(commands))
    found = _check(_index(commands=made, sections=tuple(sections)), "sections")
    assert [violation.code for violation in found.violations] == codes
    at = {60 + number for number in range(len(made))}
    assert all(violation.file_offset in at for violation in found.violations)
    assert all(f"{violation.file_offset}" in violation.sentence for violation in found.violations)


def _twice(*same_section: bool) -> Duplicates:
    count = len(same_section)
    numbers = np.arange(count, dtype=np.int64)
    return Duplicates(numbers % 2, numbers, -1000 - numbers, 2000 + numbers, np.array(same_section, np.bool_))


@pytest.mark.parametrize(
    ("flow", "same", "bad"),
    [
        ("background", (False, True), [0, 1]),
        ("precopy", (False, True), [1]),
        ("precopy", (False, False), []),
        ("precopy", (True, True), [0, 1]),
        ("background", (), []),
    ],
)
def test_pages_sent_twice(flow: str, same: tuple[bool, ...], bad: list[int]) -> None:
    """A pre-copy sends a page again in a later section; a background snapshot never."""
    ends = [_section(END)] if flow == "precopy" else []
    index = _index(
        sections=(_section(START), _section(PART), *ends), duplicates=_twice(*same),
        blocks=_blocks([1, 2], [3, 4]), anomaly_counts={"duplicate": len(same)} if same else {},
    )  # fmt: skip
    found = _check(index, "page-twice")
    assert [(one.block, one.offset, one.file_offset) for one in found.violations] == [
        (f"b{number % 2}", number * PAGE, 2000 + number) for number in bad
    ]
    assert [one.sentence for one in found.violations] == [
        f"Page 0x{number * PAGE:x} of RAMBlock 'b{number % 2}' is in the stream twice, at file offsets "
        f"{1000 + number} and {2000 + number}."
        for number in bad
    ]
    assert (found.total, found.facts) == (len(bad), {"pages sent again": len(same)})


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_pages_sent_twice_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """In the number and on the map, each in its RAMBlock."""
    monkeypatch.setattr(verdict, "VIOLATION_LIMIT", limit)
    index = _index(duplicates=_twice(False, True, True), blocks=_blocks([1, 2, 5], [3, 4], size=2 * PAGE))
    found = _check(index, "page-twice")
    assert (found.total, len(found.violations)) == (3, min(3, limit))
    assert {block: list(offsets) for block, offsets in found.bad_pages.items()} == {
        "b0": [0, 4 * PAGE], "b1": [2 * PAGE],
    }  # fmt: skip


_PLUGGED = np.array([False, True, False, True])


@pytest.mark.parametrize(
    ("source", "absent", "missing", "unplugged"),
    [
        ([10, -1, 11, 12], None, [], []),
        ([10, 0, 11, 0], None, [1, 3], []),
        ([0, 0, 0, 0], None, [0, 1, 2, 3], []),
        ([10, 0, -1, 0], _PLUGGED, [], []),
        ([0, 0, -1, 0], _PLUGGED, [0], []),
        ([10, 7, -1, 0], _PLUGGED, [], [1]),
        ([10, -7, -1, 9], _PLUGGED, [], [1, 3]),
        ([0, 7, 0, 9], _PLUGGED, [0, 2], [1, 3]),
    ],
)
@pytest.mark.parametrize("piece", [1, 2, 3, 4, 1 << 20])
def test_pages_that_are_missing_or_unplugged(
    monkeypatch: pytest.MonkeyPatch,
    source: list[int],
    absent: Any,
    missing: list[int],
    unplugged: list[int],
    piece: int,
) -> None:
    """A page is in the stream exactly if it is plugged in, in whatever pieces the index is looked at."""
    monkeypatch.setattr(structure, "_PIECE", piece)
    index = _index(blocks=_blocks([5], source))
    given = {} if absent is None else {1: absent}
    for name, pages in (("page-missing", missing), ("page-unplugged", unplugged)):
        found = _check(index, name, given)
        assert [(one.block, one.offset) for one in found.violations] == [
            ("b1", page * PAGE) for page in pages
        ]
        assert found.total == len(pages)
    facts = {} if absent is None else {"not plugged in: b1": 2 * PAGE}
    assert _check(index, "page-missing", given).facts == facts


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_missing_pages_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """In the number and on the map."""
    monkeypatch.setattr(verdict, "VIOLATION_LIMIT", limit)
    monkeypatch.setattr(structure, "_PIECE", 2)
    found = _check(_index(blocks=_blocks([0, 5, 0, 0])), "page-missing")
    assert (found.total, len(found.violations)) == (3, min(3, limit))
    assert list(found.bad_pages["b0"]) == [0, 2 * PAGE, 3 * PAGE]


def test_missing_pages_need_a_list_and_the_whole_stream() -> None:
    """Else nothing is known of them."""
    empty = _check(_index(blocks=()), "page-missing")
    assert (empty.status, empty.reason) == (Status.SKIP, "The list of RAMBlocks was not reached.")
    damaged = _check(_index(blocks=_blocks([0]), damage=_DAMAGE), "page-missing")
    assert (damaged.status, damaged.reason) == (Status.SKIP, "The reading stopped at offset 4711.")


@pytest.mark.parametrize(
    ("damage", "mapped", "count"), [(None, {}, 1), (_DAMAGE, {}, 0), (None, {0: None}, 0)]
)
def test_unplugged_pages_are_judged_in_a_whole_stream(
    damage: Anomaly | None, mapped: Any, count: int
) -> None:
    """A mapped-ram file has a place for every page, and a damaged one may name any."""
    index = _index(blocks=_blocks([7]), damage=damage, mapped=mapped)
    assert _check(index, "page-unplugged", {0: np.array([True])}).total == count


@pytest.mark.parametrize(
    ("capabilities", "source", "missing", "left_out"),
    [
        (("x-ignore-shared",), [0, 0], 0, 2),
        (("x-ignore-shared",), [0, 5], 1, 0),
        (("mapped-ram",), [0, 0], 2, 0),
        ((), [0, 0], 2, 0),
    ],
)
def test_shared_block_may_be_left_out(
    capabilities: tuple[str, ...], source: list[int], missing: int, left_out: int
) -> None:
    """As a whole, and only by x-ignore-shared; the next RAMBlock is judged nevertheless."""
    configuration = Configuration(True, "pc", capabilities)
    found = _check(_index(blocks=_blocks(source, [7, 0]), configuration=configuration), "page-missing")
    assert found.total == missing + 1
    assert (found.violations[-1].block, found.violations[-1].offset) == ("b1", PAGE)
    assert found.facts.get("left out as shared: b0") == (left_out * PAGE or None)


_RAM_START, _RAM_PART, _RAM_END = (_section(kind, offset=100 + kind) for kind in (START, PART, END))
_DEVICE, _ITERABLE = _section(FULL, "dev0", 10), _section(START, "spapr/htab", 3)
_EARLY = _section(FULL, "0000:00:02.0/virtio-mem-device-early", 11)


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ([_RAM_START, _RAM_PART, _DEVICE], []),
        ([_RAM_START, _RAM_PART, _RAM_PART, _RAM_END, _DEVICE, _DEVICE], []),
        ([_ITERABLE, _RAM_START, _ITERABLE, _RAM_PART, _DEVICE], []),
        (
            [_DEVICE, _RAM_START, _RAM_PART],
            [(Code.SECTION_ORDER_AFTER_DEVICE, START), (Code.SECTION_ORDER_AFTER_DEVICE, PART)],
        ),
        ([_RAM_START, _DEVICE, _RAM_PART], [(Code.SECTION_ORDER_AFTER_DEVICE, PART)]),
        ([_RAM_START, _RAM_START, _RAM_PART], [(Code.SECTION_ORDER_STARTED_AGAIN, START)]),
        ([_RAM_START, _RAM_END, _RAM_PART], [(Code.SECTION_ORDER_AFTER_END, PART)]),
        ([_RAM_START, _RAM_END, _RAM_END], [(Code.SECTION_ORDER_AFTER_END, END)]),
        ([_RAM_PART, _RAM_START], [(Code.SECTION_ORDER_STARTED_AGAIN, START)]),
        (
            [_RAM_START, _RAM_END, _RAM_PART, _RAM_PART],
            [(Code.SECTION_ORDER_AFTER_END, PART)] * 2,
        ),
        ([_EARLY, _RAM_START, _RAM_PART], []),
        ([_RAM_START, _EARLY, _RAM_PART], []),
        ([_EARLY, _RAM_START, _DEVICE, _RAM_PART], [(Code.SECTION_ORDER_AFTER_DEVICE, PART)]),
        ([_RAM_START, _RAM_PART, _EARLY, _RAM_PART], [(Code.SECTION_ORDER_AFTER_DEVICE, PART)]),
        ([_DEVICE], [(Code.SECTION_ORDER_NO_RAM, 0)]),
        ([], [(Code.SECTION_ORDER_NO_RAM, 0)]),
    ],
)  # fmt: skip
def test_order_of_sections(sections: list[Section], found: list[tuple[Code, int]]) -> None:
    """RAM is started once and before all devices, and neither follows its END nor a device."""
    index = _index(sections=tuple(sections), end=100)
    result = _check(index, "section-order")
    assert [(one.code, one.file_offset) for one in result.violations] == [
        (code, 100 + kind) for code, kind in found
    ]


def test_order_of_a_stream_damaged_before_its_ram() -> None:
    """Nothing can be said; behind the first RAM section the order is judged."""
    early = _check(_index(sections=(_DEVICE,), damage=_DAMAGE), "section-order")
    assert (early.status, early.reason) == (Status.SKIP, "No RAM section was reached.")
    late = _index(sections=(_RAM_START, _DEVICE, _RAM_PART), damage=_DAMAGE)
    assert _codes(late, "section-order") == [Code.SECTION_ORDER_AFTER_DEVICE]


@pytest.mark.parametrize(
    ("sections", "reported"),
    [
        ([(START, 3, 16)], []),
        ([(START, 3, 17)], [3]),
        ([(PART, 3, 12)], []),
        ([(PART, 3, 13)], [3]),
        ([(START, 3, 17), (PART, 3, 13)], [3]),
        ([(START, 3, 17), (START, 4, 17)], [3, 4]),
        ([(START, 3, 16), (START, 4, 17)], [4]),
        ([(START, 3, 0), (PART, 3, 0)], []),
        ([(START, 3, 17), (END, 3, 4)], []),
        ([(START, 3, 17), (START, 4, 17), (END, 4, 4)], [3]),
    ],
)
def test_state_saved_after_t0(sections: list[tuple[int, int, int]], reported: list[int]) -> None:
    """Iterable state with content and without an END was saved while the guest ran; each is told once."""
    iterables = [
        _section(kind, "spapr/htab", number, length, 200 + number) for kind, number, length in sections
    ]
    index = _index(sections=(_RAM_START, _RAM_PART, *iterables))
    found = _check(index, "saved-after-t0")
    assert [(one.code, one.file_offset) for one in found.violations] == [
        (Code.SAVED_AFTER_T0_ITERABLE, 200 + number) for number in reported
    ]
    assert all(one.fields == {"section": "spapr/htab"} for one in found.violations)


def test_state_saved_after_t0_of_other_streams() -> None:
    """An ordinary save is of one moment, and a damaged stream may have had an END."""
    iterable = _section(START, "spapr/htab", 3, 99)
    ordinary = _check(_index(sections=(_RAM_START, _RAM_END, iterable)), "saved-after-t0")
    assert (ordinary.status, ordinary.reason) == (Status.SKIP, "This is an ordinary save, of one moment.")
    damaged = _check(_index(sections=(_RAM_START, iterable), damage=_DAMAGE), "saved-after-t0")
    assert (damaged.status, damaged.reason) == (Status.SKIP, "The reading stopped at offset 4711.")


@pytest.mark.parametrize(
    ("start", "end", "size", "status", "told"),
    [
        (0, 1000, 1000, Status.PASS, ""),
        (0, 1000, None, Status.PASS, ""),
        (0, 1000, 1001, Status.FAIL, "1 bytes follow the end of the stream at offset 1000."),
        (0, 1000, 1500, Status.FAIL, "500 bytes follow the end of the stream at offset 1000."),
        (1, 1000, 1000, Status.PASS, ""),
        (1, 1000, 1001, Status.SKIP, "The stream lies inside a larger file; 1 bytes follow it."),
    ],
)
def test_bytes_behind_the_end(start: int, end: int, size: int | None, status: Status, told: str) -> None:
    """A file that begins with the stream ends with it; one that does not may go on."""
    found = _check(_index(start=start, end=end, file_size=size, ends_file=start == 0), "trailing-bytes")
    assert found.status is status
    assert told == (found.reason or "".join(one.sentence for one in found.violations))
    assert [one.file_offset for one in found.violations] == ([end] if status is Status.FAIL else [])


@pytest.mark.parametrize("changes", [{"damage": _DAMAGE}, {"end_marker": None}])
def test_end_that_was_not_reached(changes: dict[str, Any]) -> None:
    """Nothing follows what has no end."""
    found = _check(_index(end=1000, file_size=1500, **changes), "trailing-bytes")
    assert (found.status, found.reason) == (Status.SKIP, "The end of the stream was not reached.")


@pytest.mark.parametrize(
    ("start", "end", "size", "length"), [(0, 900, 1000, 1000), (8, 900, 1000, 992), (8, 900, None, 892)]
)
def test_bytes_of_the_stream(start: int, end: int, size: int | None, length: int) -> None:
    """To the end of the file, or as far as a pipe was read."""
    assert _check(_index(start=start, end=end, file_size=size), "truncated").facts == {"bytes": length}


@pytest.mark.parametrize(
    ("pages", "data", "capabilities", "empty"),
    [
        (256, (), (), True),
        (255, (), (), False),
        (256, (0,), (), False),
        (256, (255,), (), False),
        (512, (0, 99, 100, 511), (), False),
        (512, (), (), True),
        (512, (), ("x-ignore-shared",), True),
    ],
)
@pytest.mark.parametrize("piece", [100, 256, 1 << 20])
def test_ram_that_is_all_zero(
    monkeypatch: pytest.MonkeyPatch,
    pages: int,
    data: tuple[int, ...],
    capabilities: tuple[str, ...],
    empty: bool,
    piece: int,
) -> None:
    """The largest RAMBlock of a guest that ran has data, from 1 MiB on; any page of it will do."""
    monkeypatch.setattr(structure, "_PIECE", piece)
    source = [1 if page in data else -5 for page in range(pages)]
    index = _index(blocks=_blocks([7] * 10, source), configuration=Configuration(True, "pc", capabilities))
    found = _check(index, "ram-not-empty")
    assert found.facts == {"pages with data in the largest block": len(data)}
    assert [(one.code, one.block, one.offset, one.file_offset) for one in found.violations] == (
        [(Code.RAM_NOT_EMPTY_ALL_ZERO, "b1", 0, 51)] if empty else []
    )


@pytest.mark.parametrize(("capabilities", "empty"), [((), True), (("x-ignore-shared",), False)])
def test_ram_that_was_left_out_is_not_zero(capabilities: tuple[str, ...], empty: bool) -> None:
    """Shared RAM that no page of is in the stream may be anything."""
    index = _index(blocks=_blocks([0] * 256), configuration=Configuration(True, "pc", capabilities))
    assert bool(_check(index, "ram-not-empty").violations) == empty


@pytest.mark.parametrize("changes", [{"damage": _DAMAGE}, {"blocks": ()}])
def test_ram_that_was_not_read(changes: dict[str, Any]) -> None:
    """It may have data behind the place where the reading stopped."""
    found = _check(_index(**{"blocks": _blocks([-1] * 256), **changes}), "ram-not-empty")
    assert (found.status, found.reason) == (Status.SKIP, "RAM was not read to its end.")
