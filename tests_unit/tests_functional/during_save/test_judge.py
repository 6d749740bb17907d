"""Contract: what becomes of a save, its guest and its QEMU turns exactly one check red where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from harness.codes import Code
from harness.errors import SubjectFailed
from harness.status import Status
from tests_functional.during_save.judge import (
    Ending,
    Found,
    as_in_control,
    judge_answers,
    judge_end,
    judge_ended,
    judge_guest,
    judge_quit,
    judge_settings,
    no_worse,
    once_each,
    without_files_of,
)
from tests_functional.during_save.thing import Answer, Thing, nothing
from tests_functional.refusals.migration_options import Settings
from tests_unit.support.scenario_values import HOST, codes
from validators.checks import Problem, judged
from validators.verdict import CheckResult, Tally

_THING = Thing("a reason", nothing)
_TAKEN = Answer("stop", "", 0.1)
_REFUSED = Answer("device_add", "not while migrating", 0.2)
_DIED = Ending(lost=SubjectFailed("QEMU ended.", code=Code.QEMU_ENDED))
_WELL = Ending("completed", "", "running")


@pytest.mark.parametrize(
    ("refused", "answers", "expected"),
    [
        (False, [_TAKEN], []),
        (False, [_TAKEN, _REFUSED], [Code.DURING_SAVE_REFUSED]),
        (True, [_REFUSED], []),
        (True, [_REFUSED, _TAKEN], [Code.DURING_SAVE_ACCEPTED]),
        (None, [_REFUSED, _TAKEN], []),
        (False, [], []),
    ],
)
def test_answers(refused: bool | None, answers: Sequence[Answer], expected: Sequence[Code]) -> None:
    """QEMU refuses all that it must, and nothing else; the answers are in the facts."""
    found = judge_answers(replace(_THING, refused=refused), answers)
    assert codes(found) == list(expected)
    assert found.facts["commands"] == len(answers)
    assert found.facts["refused"] == answers.count(_REFUSED)
    assert found.facts["slowest_seconds"] == max((answer.seconds for answer in answers), default=0)
    assert found.facts.get("words") == ("not while migrating" if _REFUSED in answers else None)


@pytest.mark.parametrize(("refused", "command"), [(True, "stop"), (False, "device_add")])
def test_answer_names_its_command(refused: bool, command: str) -> None:
    """Known issues tell the commands apart."""
    (violation,) = judge_answers(replace(_THING, refused=refused), [_TAKEN, _REFUSED]).violations
    assert violation.fields == {"command": command}


@pytest.mark.parametrize(
    ("ending", "ends", "expected"),
    [
        (_WELL, {"completed"}, []),
        (replace(_WELL, status="failed", reason="Broken"), {"completed"}, [Code.SAVE_WRONG_END]),
        (replace(_WELL, status="failed", reason="Broken"), {"completed", "failed"}, []),
        (replace(_WELL, status="failed", reason=" "), {"failed"}, [Code.SAVE_NO_REASON]),
        (replace(_WELL, status="failed"), {"completed"}, [Code.SAVE_WRONG_END, Code.SAVE_NO_REASON]),
        (replace(_WELL, status="active"), {"completed"}, [Code.SAVE_WRONG_END]),
        (_DIED, {"completed"}, [Code.QEMU_ENDED]),
    ],
)
def test_end(ending: Ending, ends: set[str], expected: Sequence[Code]) -> None:
    """A save ends with a status that the thing allows, and a failed one with a reason."""
    assert codes(judge_end(replace(_THING, ends=frozenset(ends)), ending)) == list(expected)


@pytest.mark.parametrize(
    ("state", "right"), [("running", True), ("postmigrate", True), ("paused", False), ("restore-vm", False)]
)
def test_guest(state: str, right: bool) -> None:
    """The guest must be in one of the states."""
    found = judge_guest(("postmigrate", "running"), replace(_WELL, state=state))
    assert codes(found) == ([] if right else [Code.RUN_STATE_CHANGED])
    assert right or found.violations[0].fields == {"state": state}


def test_guest_of_a_qemu_that_is_gone() -> None:
    """Its end is one problem, not two."""
    assert judge_guest(("running",), _DIED).status is Status.SKIP


_ON: Mapping[str, bool] = {"background-snapshot": True, "events": False}
_BEFORE = Settings(_ON, {"max-bandwidth": 1})


@pytest.mark.parametrize(
    ("sets", "done", "after", "setting"),
    [
        (False, _BEFORE, _BEFORE, ""),
        (True, Settings(_ON, {"max-bandwidth": 2}), Settings(_ON, {"max-bandwidth": 2}), ""),
        (False, Settings(_ON, {"max-bandwidth": 2}), Settings(_ON, {"max-bandwidth": 2}), "max-bandwidth"),
        (True, Settings(_ON, {"max-bandwidth": 2}), _BEFORE, "max-bandwidth"),
        (False, _BEFORE, Settings({**_ON, "events": True}, _BEFORE.parameters), "events"),
        (True, *[Settings({**_ON, "events": True}, _BEFORE.parameters)] * 2, "events"),
        (False, _BEFORE, Settings(_ON, {"max-bandwidth": 1, "mode": "normal"}), "mode"),
    ],
)
def test_settings(sets: bool, done: Settings, after: Settings, setting: str) -> None:
    """Nothing but the thing itself sets a parameter, and nothing a capability."""
    found = judge_settings(replace(_THING, sets=sets), _BEFORE, done, after)
    assert codes(found) == ([Code.DURING_SAVE_SETTINGS] if setting else [])
    assert not setting or found.violations[0].fields == {"setting": setting}


@pytest.mark.parametrize(
    ("exit_code", "left", "passes", "expected"),
    [
        (0, [], False, []),
        (None, [], False, [Code.DURING_SAVE_RUNS_ON]),
        (-6, [], False, [Code.QEMU_ENDED]),
        (0, [17], False, [Code.KILLED_PROCESSES_LEFT]),
        (0, [], True, [Code.KILLED_FILE_PASSES]),
    ],
)
def test_qemu_that_was_to_end(
    exit_code: int | None, left: Sequence[int], passes: bool, expected: Sequence[Code]
) -> None:
    """It ends by itself with exit code 0, leaves nothing, and its half file is no snapshot."""
    assert codes(judge_ended(exit_code, left, passes)) == list(expected)


def _wrong(name: str, code: Code, sentence: str) -> CheckResult:
    return judged(name, "It is right.", [Problem(code, sentence)])


_PAGE = _wrong("page-missing", Code.PAGE_MISSING_NOT_IN_STREAM, "It lacks.")


def test_what_the_control_does_too() -> None:
    """A check that fails in an ordinary migration as well is skipped, and says both."""
    wrong, other = (
        _wrong("end", Code.SAVE_WRONG_END, "It hangs."),
        _wrong("end", Code.SAVE_FAILED, "It fails."),
    )
    guest, right = _wrong("guest", Code.RUN_STATE_CHANGED, "It stands."), judged("guest", "It runs.", [])
    assert as_in_control([wrong, right], [right]) == [wrong, right]
    assert as_in_control([right], [guest]) == [right]
    (found, still) = as_in_control([wrong, guest], [other, right])
    assert (found.status, still) == (Status.SKIP, guest)
    assert found.reason == "It hangs. An ordinary migration is no better: It fails."
    assert no_worse([wrong, guest], [found, still]) == (
        "It is wrong, but no worse than in an ordinary migration: end: "
        "It hangs. An ordinary migration is no better: It fails."
    )
    assert no_worse([right, wrong], [right, wrong]) == ""


def test_control_that_loses_its_qemu() -> None:
    """Nothing that a background snapshot does is worse than that; what is right stays right."""
    gone = [judge_end(_THING, _DIED), judge_guest(("running",), _DIED)]
    abort, right = _wrong("quit", Code.QEMU_ENDED, "It aborts."), judged("end", "x", [])
    (found, still) = as_in_control([abort, right], gone)
    assert found.reason == "It aborts. An ordinary migration is no better: QEMU ended."
    assert still == right


def test_file_is_never_excused() -> None:
    """A control that loses its QEMU excuses the end of the save, and no page that is missing."""
    gone = [judge_end(_THING, _DIED), judge_guest(("running",), _DIED)]
    found = Found([_wrong("quit", Code.QEMU_ENDED, "It aborts.")], [_PAGE])
    assert found.wrong
    checks = found.no_worse_than(gone).named("during-save/x")
    assert [(check.name, check.status) for check in checks] == [
        ("during-save/x/quit", Status.SKIP),
        ("during-save/x/page-missing", Status.FAIL),
    ]
    assert not Found([judged("end", "x", [])]).wrong


def test_thousands_of_pages_are_one_violation() -> None:
    """So that a known issue can explain all violations of a check; each code counts."""
    tally = Tally("page-missing", "All are there.")
    for number in range(3000):
        tally.report(Code.PAGE_MISSING_NOT_IN_STREAM, f"Page {number}.")
    found = once_each(tally.result())
    assert [violation.sentence for violation in found.violations] == ["Page 0."]
    assert (found.name, found.status, found.total) == ("page-missing", Status.FAIL, 1)
    assert found.facts["violations"] == 3000
    two = judged("x", "y", [Problem(Code.SAVE_FAILED, "1"), Problem(Code.QEMU_ENDED, "2")])
    assert once_each(two) == two
    three = judged(
        "x", "y", [*(Problem(violation.code, violation.sentence) for violation in two.violations)] * 2
    )
    assert codes(once_each(three)) == [Code.SAVE_FAILED, Code.QEMU_ENDED]
    assert once_each(judged("x", "y", [])).status is Status.PASS


@pytest.mark.parametrize(
    ("exit_code", "expected"), [(0, []), (None, [Code.DURING_SAVE_RUNS_ON]), (-6, [Code.QEMU_ENDED])]
)
def test_quit_after_the_save(exit_code: int | None, expected: Sequence[Code]) -> None:
    """QEMU ends with exit code 0."""
    assert codes(judge_quit(exit_code)) == list(expected)


def test_files_that_the_thing_opened() -> None:
    """They are the thing's doing, not the save's."""
    opened = replace(HOST, descriptors=(*HOST.descriptors, (9, "/x/folder/disk.qcow2"), (10, "/x/other")))
    assert without_files_of(opened, "/x/folder") == replace(
        HOST, descriptors=(*HOST.descriptors, (10, "/x/other"))
    )


@pytest.mark.parametrize(
    ("ending", "words"),
    [(_WELL, "save completed, guest running"), (_DIED, "QEMU failed: QEMU ended.")],
)
def test_words_for_the_table(ending: Ending, words: str) -> None:
    """How a save ended is said in one line."""
    assert ending.words == words
