"""Contract: an excused test is no PASS, and a wrong save is not repeated with a golden image."""

from __future__ import annotations

from dataclasses import replace

from harness.codes import Code
from harness.status import Status
from tests_functional.during_save.judge import Found
from tests_functional.during_save.scenario import _excused, _takes_golden
from tests_functional.during_save.thing import Thing, nothing
from tests_functional.lib.outcome import Outcome
from validators.checks import Problem, judged

_THING = Thing("a reason", nothing)
_RIGHT = judged("right", "It is right.", [])
_WRONG = judged("wrong", "It is right.", [Problem(Code.GOLDEN_DIFFERS, "It is not.")])


def test_excused() -> None:
    """What the control does no better is neither green nor red, and says why."""
    outcome = _excused(Outcome("a-test", Status.PASS, "It is right.", 1.0), "The control is as wrong.")
    assert (outcome.status, outcome.sentence) == (Status.SKIP, "The control is as wrong.")


def test_golden_image_after_a_right_save() -> None:
    """A golden image is taken if the live save gave a file and all is right, of the file too."""
    assert _takes_golden(_THING, Found([_RIGHT], [_RIGHT]))
    assert not _takes_golden(_THING, Found([_WRONG], [_RIGHT]))
    assert not _takes_golden(_THING, Found([_RIGHT], [_WRONG]))
    assert not _takes_golden(replace(_THING, ends=frozenset({"failed"})), Found([_RIGHT]))
    assert not _takes_golden(replace(_THING, state=""), Found([_RIGHT]))
