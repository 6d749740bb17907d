"""Contract: a page of after T0, and one that lacks what was written before T0, turns the check red."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from harness.codes import Code
from harness.errors import DeadlineExpired, SnapproofError
from tests_functional.foreign_writers.judge import judge_marks, judge_restored_writer
from tests_functional.foreign_writers.marks import MarkedPage
from tests_functional.lib.refused_save import judge_refusal
from tests_unit.support.scenario_values import codes, sentences

_BEFORE = MarkedPage("pc.ram", 0x1000, 2, 2, 0)
_OTHER = MarkedPage("pc.ram", 0x6000, 2, 2, 1)
_COPY = MarkedPage("mem1", 0x1000, 2, 2, 0)
_AFTER = MarkedPage("pc.ram", 0x2000, 3, 3, 1)
_TORN = MarkedPage("pc.ram", 0x3000, 2, 3, 1)
_OLD = MarkedPage("pc.ram", 0x4000, 1, 1, 1)
_HALF_OLD = MarkedPage("pc.ram", 0x5000, 1, 2, 1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([_BEFORE, _OTHER], []),
        ([_BEFORE, _COPY], [Code.FOREIGN_WRITER_TWICE, Code.FOREIGN_WRITER_LOST]),
        ([_BEFORE, _OTHER, _COPY], [Code.FOREIGN_WRITER_TWICE]),
        ([_BEFORE, _AFTER], [Code.FOREIGN_WRITER_NEWER]),
        ([_BEFORE, _TORN], [Code.FOREIGN_WRITER_NEWER]),
        ([_BEFORE, _OLD], [Code.FOREIGN_WRITER_LOST]),
        ([_BEFORE, _HALF_OLD], [Code.FOREIGN_WRITER_LOST]),
        ([_BEFORE], [Code.FOREIGN_WRITER_LOST]),
        ([], [Code.FOREIGN_WRITER_LOST]),
        ([_AFTER], [Code.FOREIGN_WRITER_NEWER, Code.FOREIGN_WRITER_LOST]),
    ],
)
def test_marks_of_a_file(found: Sequence[MarkedPage], expected: Sequence[Code]) -> None:
    """Of two pages each must have the pass of before T0, and no other."""
    assert codes(judge_marks(found, 2, 2)) == expected


def test_newer_pages_are_named() -> None:
    """The sentence has their number and the first of them."""
    four = [replace(_AFTER, index=index) for index in range(4)]
    (sentence,) = sentences(judge_marks(four, 2, 4))
    assert sentence.startswith("4 of 4 pages have what a foreign writer wrote after T0: pc.ram at 0x2000, ")
    assert sentence.endswith(", ....")
    assert judge_marks(four, 2, 4).facts["pages newer than T0"] == 4
    (violation,) = judge_marks([_BEFORE, _AFTER], 2, 2).violations
    assert violation.fields == {"block": "pc.ram", "offset": 0x2000}


@pytest.mark.parametrize(
    ("passes", "error", "words"),
    [
        ([3, 3], None, ""),
        ([3, 2], None, "wrote 1 of 2 pages"),
        ([3, None], None, "wrote 1 of 2 pages"),
        ([3, 3], DeadlineExpired("The disk did not answer."), "does not go on.*: The disk did not answer"),
    ],
)
def test_restored_writer(passes: Sequence[int | None], error: SnapproofError | None, words: str) -> None:
    """It writes all pages of the pass that it was given before T0."""
    result = judge_restored_writer(passes, 3, error)
    assert codes(result) == ([Code.FOREIGN_WRITER_SILENT] if words else [])
    if words:
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(*sentences(result))


@pytest.mark.parametrize(("device", "expected"), [("vhost-user-fs", []), ("ide-hd", [Code.REFUSAL_UNCLEAR])])
def test_refusal_names_the_device(device: str, expected: Sequence[Code]) -> None:
    """A user must see what to take out."""
    words = "State blocked by non-migratable device '0000:00:02.0/vhost-user-fs'"
    assert codes(judge_refusal(words, device)) == expected
