"""Contract: a verdict counts every violation, keeps the first of them, and has the same form in each file."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from harness.codes import Code
from harness.qemu.architectures import TARGET_PAGE_BYTES as PAGE
from harness.status import Status
from validators import verdict
from validators.verdict import (
    T0,
    VIOLATION_LIMIT,
    CheckResult,
    PageRange,
    Tally,
    Verdict,
    Violation,
    group_ranges,
    hexdump,
)

_CODE = Code.GOLDEN_DIFFERS


def _violation(**place: Any) -> Violation:
    return Violation("golden", _CODE, "It differs.", **place)


def _check(name: str, status: Status, **more: Any) -> CheckResult:
    return CheckResult(name, "It demands.", status, **more)


@pytest.mark.parametrize(
    ("pages", "size", "ranges"),
    [
        ([], PAGE, []),
        ([0], PAGE, [(0, 1)]),
        ([7], PAGE, [(7, 8)]),
        ([7, 8], PAGE, [(7, 9)]),
        ([7, 9], PAGE, [(7, 8), (9, 10)]),
        ([0, 1, 2, 4], PAGE, [(0, 3), (4, 5)]),
        ([4, 2, 0, 1], PAGE, [(0, 3), (4, 5)]),
        ([3, 3, 3], PAGE, [(3, 4)]),
        ([3, 4, 4, 5], PAGE, [(3, 6)]),
        ([5, 9, 13], PAGE, [(5, 6), (9, 10), (13, 14)]),
        ([1, 2], 16 << 10, [(1, 3)]),
    ],
)
def test_neighbours_are_one_range(pages: list[int], size: int, ranges: list[tuple[int, int]]) -> None:
    """Each bad page is in exactly one range, whatever their order, and however often one is named."""
    found = group_ranges({"pc.ram": [page * size for page in pages]}, size)
    assert found == [PageRange("pc.ram", first * size, end * size, end - first) for first, end in ranges]


def test_ranges_by_block() -> None:
    """Each RAMBlock has ranges of its own; an offset inside a page counts as its page."""
    assert group_ranges({"a": [PAGE + 8, 2 * PAGE], "none": [], "b": [2 * PAGE]}) == [
        PageRange("a", PAGE, 3 * PAGE, 2),
        PageRange("b", 2 * PAGE, 3 * PAGE, 1),
    ]


def test_range_of_the_highest_offset() -> None:
    """A damaged record may name any 64-bit offset."""
    (found,) = group_ranges({"a": [(1 << 64) - 1]})
    assert (found.start, found.end, found.pages) == ((1 << 64) - PAGE, 1 << 64, 1)


@pytest.mark.parametrize(
    ("start", "length", "offsets"),
    [
        (0, 32, [0, 16]),
        (15, 32, [0, 16]),
        (16, 32, [16, 32]),
        (31, 32, [16, 32]),
        (40, 16, [32]),
        (48, 32, [48]),
        (63, 32, [48]),
    ],
)
def test_hexdump_has_the_line_of_the_byte_and_the_next(start: int, length: int, offsets: list[int]) -> None:
    """Lines begin at multiples of 16, and none lies behind the data."""
    data = bytes(range(64))
    lines = hexdump(data, start, "found", length).split("\n")
    assert lines == [f"found +0x{at:03x}: {data[at : at + 16].hex(' ')}" for at in offsets]


def test_hexdump_is_of_two_lines() -> None:
    """Two lines unless another length is asked for."""
    assert len(hexdump(bytes(64), 0, "x").split("\n")) == 2


def test_all_violations_are_counted_and_the_first_kept() -> None:
    """The one behind the last that is kept only adds to the number."""
    tally = Tally("golden", "It demands.")
    for number in range(VIOLATION_LIMIT - 1):
        tally.add(_violation(block="a", offset=number * PAGE))
    assert (tally.room, tally.full) == (1, False)
    tally.add(_violation(block="a", offset=(VIOLATION_LIMIT - 1) * PAGE))
    assert (tally.room, tally.full) == (0, True)
    tally.add(_violation(block="a", offset=VIOLATION_LIMIT * PAGE))
    assert (tally.room, tally.full) == (0, True)
    result = tally.result()
    assert (len(result.violations), result.total) == (VIOLATION_LIMIT, VIOLATION_LIMIT + 1)
    assert result.violations[-1].offset == (VIOLATION_LIMIT - 1) * PAGE
    assert list(result.bad_pages["a"]) == [number * PAGE for number in range(VIOLATION_LIMIT + 1)]


@pytest.mark.parametrize(
    ("place", "count", "bad"),
    [
        ({"block": "a", "offset": 0}, 1, {"a": [0]}),
        ({"block": "a", "offset": PAGE}, 1, {"a": [PAGE]}),
        ({"block": "a", "offset": PAGE}, 2, {}),
        ({"block": "a"}, 1, {}),
        ({"offset": PAGE}, 1, {}),
        ({}, 1, {}),
    ],
)
def test_page_of_a_violation_is_on_the_map(
    place: dict[str, Any], count: int, bad: dict[str, list[int]]
) -> None:
    """If it is about one page of a RAMBlock; one that stands for several does not name the others."""
    tally = Tally("golden", "It demands.")
    tally.add(_violation(**place), count)
    result = tally.result()
    assert {block: list(offsets) for block, offsets in result.bad_pages.items()} == bad
    assert (result.total, len(result.violations)) == (count, 1)


@pytest.mark.parametrize("kind", [list, np.array])
def test_counted_pages_have_no_violation(kind: Any) -> None:
    """They are in the number and on the map, and make the check fail."""
    tally = Tally("golden", "It demands.")
    tally.count("a", kind([PAGE, 3 * PAGE]))
    tally.count("b", kind([0]))
    tally.count("a", kind([5 * PAGE]))
    result = tally.result()
    assert (result.status, result.total, result.violations) == (Status.FAIL, 4, ())
    assert {block: list(offsets) for block, offsets in result.bad_pages.items()} == {
        "a": [PAGE, 3 * PAGE, 5 * PAGE],
        "b": [0],
    }


def test_no_counted_page_is_no_violation() -> None:
    """An oracle counts what is left over, which may be nothing."""
    tally = Tally("golden", "It demands.")
    tally.count("a", [])
    assert (tally.result().status, tally.result().bad_pages) == (Status.PASS, {})


def test_bad_pages_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are counted, those of all RAMBlocks together are kept up to the limit."""
    monkeypatch.setattr(verdict, "BAD_PAGE_LIMIT", 4)
    tally = Tally("golden", "It demands.")
    tally.count("a", [PAGE, 2 * PAGE, 3 * PAGE])
    tally.count("b", [PAGE, 2 * PAGE, 3 * PAGE])
    tally.count("c", [0])
    result = tally.result()
    assert result.total == 7
    assert sum(map(len, result.bad_pages.values())) == 4
    assert (list(result.bad_pages["a"]), list(result.bad_pages["b"])) == ([PAGE, 2 * PAGE, 3 * PAGE], [PAGE])


@pytest.mark.parametrize(
    ("pages", "violations", "keeps"),
    [(3, 2, True), (4, 2, False), (5, 2, False), (4, 1, True), (3, 1, True), (0, 0, True)],
)
def test_place_of_a_further_page_is_kept(
    monkeypatch: pytest.MonkeyPatch, pages: int, violations: int, keeps: bool
) -> None:
    """On the map or in a violation, until both are full."""
    monkeypatch.setattr(verdict, "BAD_PAGE_LIMIT", 4)
    monkeypatch.setattr(verdict, "VIOLATION_LIMIT", 2)
    tally = Tally("golden", "It demands.")
    tally.count("a", [number * PAGE for number in range(pages)])
    for _ in range(violations):
        tally.add(_violation())
    assert tally.keeps_places == keeps


def test_reported_violation_has_its_place() -> None:
    """RAMBlock, offset and file offset are those that the rule names, and the check is the tally's."""
    tally = Tally("golden", "It demands.")
    tally.report(_CODE, "It differs.", "a", PAGE, 77)
    tally.report(_CODE, "It differs.", file_offset=78)
    assert tally.violations == [
        Violation("golden", _CODE, "It differs.", block="a", offset=PAGE, file_offset=77),
        Violation("golden", _CODE, "It differs.", file_offset=78),
    ]


def test_skipped_unless_something_was_wrong_before() -> None:
    """A violation is never lost because the rest of a check could not be made."""
    tally = Tally("golden", "It demands.")
    tally.facts["pages"] = 3
    left_out = tally.skip("No image.")
    assert (left_out.status, left_out.reason, left_out.facts) == (Status.SKIP, "No image.", {"pages": 3})
    tally.add(_violation())
    failed = tally.skip("No image.")
    assert (failed.status, failed.reason, failed.total, failed.facts) == (Status.FAIL, "", 1, {"pages": 3})
    assert (failed.name, failed.explanation) == ("golden", "It demands.")


@pytest.mark.parametrize(
    ("statuses", "whole"),
    [
        ([], Status.ERROR),
        ([Status.PASS, Status.SKIP], Status.PASS),
        ([Status.SKIP], Status.SKIP),
        ([Status.PASS, Status.FAIL, Status.SKIP], Status.FAIL),
    ],
)
def test_verdict_is_that_of_the_worst_check(statuses: list[Status], whole: Status) -> None:
    """A file that nothing has judged has not passed."""
    assert Verdict(tuple(_check(str(number), one) for number, one in enumerate(statuses))).status is whole


def test_what_a_verdict_finds() -> None:
    """A check by its name, T0 of the check that found it, and the violations of all."""
    first, second = _violation(offset=1), _violation(offset=2)
    t0 = T0((1, 2), 3)
    checks = (
        _check("a", Status.FAIL, violations=(first,)),
        _check("b", Status.FAIL, violations=(second,), t0=t0),
    )
    found = Verdict(checks, {"page size": 16 << 10})
    assert (found.check("b"), found.check("c")) == (checks[1], None)
    assert found.t0 is t0
    assert Verdict(checks[:1]).t0 is None
    assert found.violations == (first, second)
    assert (found.page_size, Verdict(()).page_size) == (16 << 10, PAGE)


def test_json_of_a_verdict() -> None:
    """Version 1: programs read these names; what a violation does not have is left out, and 0 is not."""
    violation = Violation(
        "golden",
        _CODE,
        "It differs.",
        "a",
        0,
        gpa=0,
        thread=0,
        index=0,
        generation=0,
        fields={"age": "newer"},
    )
    failed = _check(
        "golden", Status.FAIL, violations=(violation,), total=2, facts={"pages": 5},
        bad_pages={"a": [0, 16 << 10]},
    )  # fmt: skip
    left_out = _check("other", Status.SKIP, reason="No image.", known_issue="F9")
    assert json.loads(Verdict((failed, left_out), {"page size": 16 << 10}).to_json()) == {
        "version": 1,
        "status": "FAIL",
        "facts": {"page size": 16 << 10},
        "checks": [
            {
                "name": "golden",
                "explanation": "It demands.",
                "status": "FAIL",
                "reason": "",
                "total": 2,
                "facts": {"pages": 5},
                "ranges": [{"block": "a", "start": 0, "end": 32 << 10, "pages": 2}],
                "violations": [
                    {
                        "check": "golden",
                        "code": _CODE.value,
                        "sentence": "It differs.",
                        "block": "a",
                        "offset": 0,
                        "gpa": 0,
                        "thread": 0,
                        "index": 0,
                        "generation": 0,
                        "fields": {"age": "newer"},
                    }
                ],
            },
            {
                "name": "other",
                "explanation": "It demands.",
                "status": "SKIP",
                "reason": "No image.",
                "total": 0,
                "facts": {},
                "ranges": [],
                "violations": [],
                "known_issue": "F9",
            },
        ],
    }


def test_ranges_in_json_are_of_usual_pages_unless_told() -> None:
    """A check on a live guest knows no page size of a file."""
    found = _check("a", Status.FAIL, bad_pages={"a": [0, PAGE]}).to_json()["ranges"]
    assert found == [{"block": "a", "start": 0, "end": 2 * PAGE, "pages": 2}]
