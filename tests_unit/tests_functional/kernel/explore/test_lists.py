"""Lists of memory operations: drawing, JSON, reduction, known issues and the C program."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests_functional.kernel.explore.acts import ACTS, FILLS
from tests_functional.kernel.explore.c_program import program
from tests_functional.kernel.explore.coverage import Reached
from tests_functional.kernel.explore.draw import MENU, Drawer
from tests_functional.kernel.explore.executor import Record
from tests_functional.kernel.explore.known import known_issue, leads_to_known
from tests_functional.kernel.explore.memory import KINDS
from tests_functional.kernel.explore.reduction import reduce_list
from tests_functional.kernel.explore.session import GAINED, HANG, LOST, SPIN
from tests_functional.kernel.explore.steps import MemoryList, Monitor, Step
from tests_functional.kernel.matrix.reproducer import MOST_LINES

_MONITORS = (Monitor(), Monitor(unpopulated=True), Monitor(asynchronous=True))
_WHOLE = {"on": "thp", "first": 0, "count": 512}
_SPLIT = (
    Step("fill", {**_WHOLE, "pattern": "zeros", "value": 1}),
    Step("register", {**_WHOLE, "mode": 2}),
    Step("protect", _WHOLE),
    Step("cold", {**_WHOLE, "count": 1}),
)


def _drawer(offered: frozenset[str] = frozenset(MENU)) -> Drawer:
    return Drawer(offered, _MONITORS)


def _many(drawer: Drawer, count: int = 400) -> list[MemoryList]:
    coverage: Reached[MemoryList] = Reached()
    found = []
    for number in range(count):
        found.append(drawer.draw(f"1:{number}", coverage))
        coverage.add(found[-1], [f"{step.kind} in any" for step in found[-1].steps] + [str(number % 50)])
    return found


def test_all_that_is_drawn_can_be_taken() -> None:
    """Each kind of step has an act, and its pages lie in its memory."""
    assert set(MENU) == set(ACTS)
    lists = _many(_drawer())
    assert {step.kind for one in lists for step in one.steps} == set(MENU)
    assert {step.arguments["on"] for one in lists for step in one.steps if "on" in step.arguments} == set(
        KINDS
    )
    for step in (step for one in lists for step in one.steps if "first" in step.arguments):
        given = step.arguments
        assert 0 <= given["first"] < given["first"] + given["count"] <= KINDS[given["on"]].pages, step.words


def test_same_seed_gives_the_same_list() -> None:
    """The seed and what was reached decide; another seed gives another list."""
    assert _many(_drawer(), 60) == _many(_drawer(), 60)
    first, second = (_drawer().draw(seed, Reached()) for seed in ("1:0", "2:0"))
    assert first != second


def test_what_is_not_offered_or_avoided_is_not_drawn() -> None:
    """A host without KSM gets no merge; known issues are avoided if that is asked for."""
    lists = _many(_drawer(frozenset(MENU) - {"merge", "fork"}), 200)
    assert not {step.kind for one in lists for step in one.steps} & {"merge", "fork"}
    drawer, all_of_them = _drawer(), {"F15", "F42", "F43"}
    drawn = [drawer.draw(f"3:{number}", Reached(), all_of_them) for number in range(200)]
    assert not any(leads_to_known(one, all_of_them) for one in drawn)
    others = [drawer.draw(f"3:{number}", Reached(), {"F15"}) for number in range(200)]
    assert any(leads_to_known(one, {"F42"}) for one in others)
    assert not any(leads_to_known(one, {"F15"}) for one in others)


def test_json() -> None:
    """A list is the same after its JSON form; another form is a ValueError."""
    for one in _many(_drawer(), 50):
        assert MemoryList.from_json(json.loads(json.dumps(one.to_json()))) == one
    for wrong in ({}, {"version": 2}, {"version": 1, "monitor": {"x": 1}, "steps": []}):
        with pytest.raises(ValueError, match=r"version|list of steps"):
            MemoryList.from_json(wrong)


def test_fills() -> None:
    """The patterns are what their names say, and every one is a known content."""
    assert [FILLS["mixed"](number, 3) for number in range(4)] == [0, 3, 0, 3]
    assert [FILLS["same"](number, 2) for number in range(3)] == [2, 2, 2]
    assert len({FILLS["each"](number, 1) for number in range(16)}) == 5
    assert not any(FILLS["zeros"](number, 3) for number in range(3))


def _noisy(seed: int) -> MemoryList:
    chance = random.Random(seed)
    others = [
        Step("write", {"on": "anon", "first": chance.randrange(9), "count": 3, "value": 2, "way": "thread"})
    ] * 9
    steps = [*_SPLIT[:3], Step("cold", {**_WHOLE, "first": 100, "count": 7})]
    for step in others:
        steps.insert(chance.randint(0, len(steps)), step)
    return MemoryList(Monitor(unpopulated=True, protect=True), tuple(steps))


@pytest.mark.parametrize("seed", range(5))
def test_reduction_leaves_what_is_needed(seed: int) -> None:
    """Of thirteen steps four are left, with the plainest monitor and arguments."""

    def fails(steps: MemoryList) -> bool:
        return [step.kind for step in steps.steps if step.arguments["on"] == "thp"] == [
            "fill",
            "register",
            "protect",
            "cold",
        ]

    reduced = reduce_list(_noisy(seed), fails, lambda runs: runs < 200)
    assert (reduced.failed, reduced.tried) == (3, 3)
    assert reduced.steps.monitor == Monitor()
    assert [step.kind for step in reduced.steps.steps] == [step.kind for step in _SPLIT]
    assert reduced.steps.steps[3].arguments == {"on": "thp", "first": 0, "count": 1}


def test_reduction_of_what_does_not_fail_again() -> None:
    """It stays as it is, and says so."""
    reduced = reduce_list(_noisy(1), lambda _: False, lambda runs: runs < 200)
    assert (reduced.failed, reduced.runs, reduced.steps) == (0, 3, _noisy(1))


@pytest.mark.parametrize(
    ("kinds", "code", "fields", "name"),
    [
        (("merge", "read"), LOST, {"kind": "anon"}, "F15"),
        (("merge", "read"), LOST, {"kind": "thp"}, ""),
        (("merge",), GAINED, {"kind": "anon"}, ""),
        (("read",), LOST, {"kind": "anon"}, ""),
        (("guard",), SPIN, {}, "F42"),
        (("guard", "read"), SPIN, {}, ""),
        (("guard",), LOST, {"kind": "anon"}, ""),
        (("pageout", "move"), GAINED, {"moved": True}, "F43"),
        (("move", "pageout"), GAINED, {"moved": True}, ""),
        (("pageout", "move"), GAINED, {}, ""),
    ],
)
def test_known_issue(kinds: tuple[str, ...], code: str, fields: dict[str, Any], name: str) -> None:
    """It takes what leads to it, its code, and the place where it shows."""
    steps = MemoryList(Monitor(), tuple(Step(kind, {"on": "anon"}) for kind in kinds))
    assert known_issue(steps, Record(code, "x", fields, at=len(kinds) - 1)) == name


def test_step_after_the_failure_explains_nothing() -> None:
    """What came later has not led to it."""
    steps = MemoryList(Monitor(), (Step("read", {"on": "anon"}), Step("merge", {"on": "anon"})))
    assert known_issue(steps, Record(LOST, "x", {"kind": "anon"}, at=0)) == ""


def _compiled(tmp_path: Path, text: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("There is no C compiler.")
    (tmp_path / "reproduce.c").write_text(text)
    command = [compiler, "-Wall", "-Werror", "-pthread", "-o", "reproduce", "reproduce.c"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    return tmp_path / "reproduce"


@pytest.mark.parametrize(
    ("steps", "record"),
    [
        (_SPLIT, {"code": LOST, "sentence": "x */ y", "fields": {"kind": "thp", "page": 1}}),
        (
            (*_SPLIT[1:3], Step("move", {**_WHOLE, "to": 3})),
            {"code": "write-unreported", "sentence": "x", "fields": {"kind": "thp", "page": 1}},
        ),
        (
            (
                Step("fork", {"stays": True}),
                Step("write", {"on": "memfd-private", "first": 0, "count": 1, "value": 3}),
            ),
            {
                "code": "content-differs",
                "sentence": "x",
                "fields": {"kind": "memfd-private", "page": 1, "allowed": [6]},
            },
        ),
        (
            (Step("guard", {"on": "anon", "first": 0, "count": 1}),),
            {"code": HANG, "sentence": "x", "fields": {}},
        ),
    ],
)
def test_c_program_compiles(tmp_path: Path, steps: tuple[Step, ...], record: dict[str, Any]) -> None:
    """It has at most 60 lines and no warning."""
    text, reason = program(MemoryList(Monitor(), steps), record)
    assert not reason
    assert text.count("\n") <= MOST_LINES
    _compiled(tmp_path, text)


@pytest.mark.parametrize(
    ("step", "code", "reason"),
    [
        (Step("scan", {"on": "anon", "first": 0, "count": 1}), LOST, "step scan"),
        (Step("read", {"on": "file-private", "first": 0, "count": 1}), LOST, "asynchronously"),
        (Step("register", {"on": "shmem", "first": 0, "count": 1, "mode": 6}), LOST, "minor"),
        (
            Step("read", {"on": "anon", "first": 0, "count": 1}),
            "scan-differs",
            "does not look for scan-differs",
        ),
    ],
)
def test_no_c_program(step: Step, code: str, reason: str) -> None:
    """The reason says why there is none."""
    text, said = program(MemoryList(Monitor(), (step,)), {"code": code, "sentence": "x", "fields": {}})
    assert not text
    assert reason in said
