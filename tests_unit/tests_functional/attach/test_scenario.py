"""Contract: a VM that is left otherwise than it was, and a fault that nobody sees, are failures."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.attach.ledger import PIN
from harness.codes import Code
from harness.errors import SetupBroken
from harness.status import Status
from tests_functional.attach.kills import ALL_INSTANTS, INSTANTS, Instant
from tests_functional.attach.owner import judge_told
from tests_functional.attach.scenario import (
    RIGHT,
    Settled,
    judge_after_kill,
    judge_seen,
    left_pins,
    require_compared,
)
from tests_functional.lib.build_outcome import build_outcome
from tests_functional.lib.outcome import Outcome
from validators.verdict import CheckResult, Violation

_COMMAND, _GUARD = Instant("stop", True), Instant("stop", True, guard=True)


def test_vm_as_before_passes() -> None:
    """Both kinds of kill, and a save that has completed meanwhile."""
    assert judge_after_kill(_COMMAND, -9, RIGHT).status is Status.PASS
    assert judge_after_kill(_COMMAND, -9, Settled("running", False, "completed")).status is Status.PASS
    assert judge_after_kill(_GUARD, 1, RIGHT).status is Status.PASS


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (Settled("paused", False, "none"), "state"),
        (Settled("running", True, "none"), "capability"),
        (Settled("running", False, "active"), "migration"),
        (Settled("running", False, "failed"), "migration"),
        (Settled("running", False, "none", ("snapproof-pin-0",)), "pin"),
    ],
)
def test_what_is_left_is_named(found: Settled, what: str) -> None:
    """Each leftover is one violation with its own field."""
    check = judge_after_kill(_COMMAND, -9, found)
    assert check.status is Status.FAIL
    assert [(one.code, one.fields["what"]) for one in check.violations] == [(Code.ATTACH_LEFT, what)]


@pytest.mark.parametrize(("instant", "code"), [(_COMMAND, 0), (_COMMAND, 1), (_GUARD, -9), (_GUARD, 0)])
def test_kill_that_did_not_happen_shows_nothing(instant: Instant, code: int) -> None:
    """The set-up is broken then, and not the VM right."""
    with pytest.raises(SetupBroken, match="did not happen"):
        judge_after_kill(instant, code, RIGHT)


def test_names_of_pins_that_are_left() -> None:
    """Nodes, jobs, exports and descriptors of ours, and nothing of the owner's."""
    answers: dict[str, Any] = {
        "query-named-block-nodes": [{"node-name": "disk"}, {"node-name": f"{PIN}-0"}],
        "query-jobs": [{"id": f"{PIN}-1"}, {"id": "backup"}],
        "query-block-exports": [{"id": f"{PIN}-2"}],
        "query-fdsets": [{"fds": [{"fd": 3}, {"fd": 4, "opaque": f"{PIN}-3"}]}],
    }
    machine: Any = SimpleNamespace(qmp=SimpleNamespace(execute=lambda command, *_: answers[command]))
    assert left_pins(machine) == tuple(f"{PIN}-{number}" for number in range(4))


def test_instants_have_names_of_their_own() -> None:
    """Checks are told apart by name; ten instants and more are of the command itself."""
    assert len({one.label for one in ALL_INSTANTS}) == len(ALL_INSTANTS)
    assert sum(not one.guard for one in INSTANTS) >= 10


def _outcome(status: Status, code: Code, block: str) -> Outcome:
    violation = Violation("golden", code, "It is so.", block, 0)
    return Outcome("x", status, "It is so.", checks=[CheckResult("golden", "", status, (violation,), 1)])


def test_planted_fault_has_to_be_named() -> None:
    """A FAIL that names a page is right; another status, another code or no page is not."""
    assert judge_seen(_outcome(Status.FAIL, Code.GOLDEN_DIFFERS, "pc.ram")).status is Status.PASS
    assert judge_seen(_outcome(Status.FAIL, Code.WRITE_ORDER_NEWER, "pc.ram")).status is Status.PASS
    for wrong in (
        _outcome(Status.PASS, Code.GOLDEN_DIFFERS, "pc.ram"),
        _outcome(Status.FAIL, Code.SAVE_FAILED, "pc.ram"),
        _outcome(Status.FAIL, Code.GOLDEN_DIFFERS, ""),
    ):
        check = judge_seen(wrong)
        assert check.violations[0].code is Code.ATTACH_UNSEEN


def test_acts_of_the_owner_that_are_not_told() -> None:
    """The parameter and the file must both be in the facts of `source-vm`, and of no other check."""
    told = CheckResult(
        "source-vm", "", Status.PASS, facts={"by others 1": "downtime-limit", "by others 2": "more of '/a'"}
    )
    other = CheckResult("other", "", Status.PASS, facts=told.facts)
    assert judge_told([told], Path("/a")).status is Status.PASS
    found = judge_told([other], Path("/a"))
    assert [one.fields["what"] for one in found.violations] == ["downtime-limit", "/a"]
    (one,) = judge_told([told], Path("/b")).violations
    assert (one.code, one.fields["what"]) == (Code.ATTACH_UNSEEN, "/b")


@pytest.mark.parametrize(
    ("compared", "left_out", "enough"), [(900, 0, True), (901, 100, True), (900, 100, False), (0, 0, False)]
)
def test_golden_image_with_few_pages_proves_too_little(compared: int, left_out: int, enough: bool) -> None:
    """Nine of ten pages must be compared."""
    facts: dict[str, int | float | str] = {
        "pages compared": compared,
        "pages not in the golden image": left_out,
    }
    with contextlib.nullcontext() if enough else pytest.raises(SetupBroken, match="proves too little"):
        require_compared([CheckResult("golden", "", Status.PASS, facts=facts)])


def test_codes_by_which_a_fault_is_to_be_seen() -> None:
    """Another code does not count."""
    violation = Violation("golden", Code.WRITE_ORDER_NEWER, "Newer.", "pc.ram", 0)
    check = CheckResult("golden", "", Status.FAIL, violations=(violation,), total=1)
    outcome = build_outcome("attach", [check], 0.0, "", {})
    assert judge_seen(outcome).status is Status.PASS
    assert judge_seen(outcome, by=(Code.GOLDEN_DIFFERS,)).status is Status.FAIL
