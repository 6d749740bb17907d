"""The model of pages: what operations lead to, what observations leave out, and what stays open."""

from __future__ import annotations

import pytest

from harness.userfaultfd import Mode
from tests_functional.kernel.explore import model
from tests_functional.kernel.explore.model import FILLER, Rules, State

_ANON = Rules(True, True, 0, False, int(Mode.WP), False, False, False)
_SHARED = _ANON._replace(anonymous=False, private=False)
_FILE = _ANON._replace(anonymous=False, base=6)
_THP = _ANON._replace(huge=True)
_NONE, _MARKER = State(0, False, False), State(0, False, True)
_PAGE, _PROTECTED = State(1, True, False), State(1, True, True)


def _one(*states: State) -> frozenset[State]:
    return frozenset(states)


def _after(rules: Rules, state: State, *, write: bool, value: int | None = 2) -> set[tuple[object, State]]:
    return set(model.accessed(_one(state), rules, write, value if write else None))


@pytest.mark.parametrize(
    ("rules", "state", "events", "after"),
    [
        (_ANON, _PAGE, (), State(2, True, False)),
        (_ANON, _PROTECTED, ("wp",), State(2, True, False)),
        (_ANON, _NONE, (), State(2, True, False)),
        (_ANON, _MARKER, ("wp",), State(2, True, False)),
        (_ANON._replace(asynchronous=True), _PROTECTED, (), State(2, True, False)),
        (_ANON._replace(mode=3), _NONE, ("missing",), State(2, True, False)),
        (_ANON._replace(mode=3, protect=True), _NONE, ("missing", "wp"), State(2, True, False)),
        (_ANON._replace(mode=1, protect=True), _NONE, ("missing",), State(2, True, False)),
        (_SHARED, _MARKER, ("wp",), State(2, True, False)),
        (_FILE, State(6, False, True), ("wp",), State(2, True, False)),
        (_FILE._replace(mode=3), State(6, False, False), (), State(2, True, False)),
    ],
)
def test_write(rules: Rules, state: State, events: tuple[str, ...], after: State) -> None:
    """A write raises the events of its page's state, and ends protection."""
    assert _after(rules, state, write=True) == {(events, after)}


@pytest.mark.parametrize(
    ("rules", "state", "events", "after"),
    [
        (_ANON, _PROTECTED, (), _PROTECTED),
        (_ANON, _MARKER, (), State(0, True, True)),
        (_ANON._replace(mode=3), _MARKER, ("missing",), State(FILLER, True, False)),
        (_ANON._replace(mode=3, protect=True), _NONE, ("missing",), State(FILLER, True, True)),
        (_SHARED, _NONE, (), State(0, True, False, lazy=True)),
        (_FILE, State(6, False, True), (), State(6, False, True)),
    ],
)
def test_read(rules: Rules, state: State, events: tuple[str, ...], after: State) -> None:
    """A read keeps protection; it makes a page that does not exist."""
    assert _after(rules, state, write=False) == {(events, after)}


def test_write_that_changes_nothing() -> None:
    """MADV_POPULATE_WRITE raises the events of a write and leaves the content."""
    assert _after(_ANON, _PROTECTED, write=True, value=None) == {(("wp",), _PAGE)}


def test_minor_faults_are_open() -> None:
    """Whether an entry maps a page of the cache is not known, so both are allowed."""
    rules = _SHARED._replace(mode=7)
    assert _after(rules, _PROTECTED, write=True) == {
        (("wp",), State(2, True, False)),
        (("minor", "wp"), State(2, True, False)),
    }
    assert {events for events, _ in _after(rules, _NONE, write=True)} == {("missing",)}


def test_freed_page_may_vanish_until_it_is_written() -> None:
    """MADV_FREE leaves two states, in which a write may wait or not; after it there is one."""
    freed = model.freed(_one(_PROTECTED))
    assert model.values(freed, _ANON) == {0, 1}
    assert model.accessed(freed, _ANON, True, 2) == {
        (("wp",), State(2, True, False)),
        ((), State(2, True, False)),
    }
    assert model.freed(_one(_NONE)) == {_NONE}
    assert model.values(_one(State(2, True, False)), _ANON) == {2}


def test_clean_page_of_shared_memory_keeps_its_marker() -> None:
    """A page that reads alone have made may be dropped; protection stays."""
    lazy = State(0, True, True, lazy=True)
    assert model.loosened(_one(lazy), _SHARED) == {lazy, _MARKER}


def test_protect() -> None:
    """Pages that do not exist get a marker, but not in anonymous memory without WP_UNPOPULATED."""
    both = _one(_NONE, _PAGE)
    assert model.protected(both, _ANON) == {_NONE, _PROTECTED}
    assert model.protected(both, _ANON._replace(unpopulated=True)) == {_MARKER, _PROTECTED}
    assert model.protected(both, _SHARED) == {_MARKER, _PROTECTED}
    assert model.released(_one(_MARKER, _PROTECTED)) == both


def test_zap() -> None:
    """Anonymous memory loses all, shared memory nothing, the copy of a file's page is open."""
    assert model.zapped(_one(_PROTECTED), _ANON) == {_NONE}
    assert model.zapped(_one(_PROTECTED), _SHARED) == {_PROTECTED}
    assert model.zapped(_one(_PROTECTED), _FILE) == {State(6, False, True), State(6, False, False)}
    assert model.zapped(_one(_PAGE), _FILE) == {State(6, False, False)}
    assert model.punched(_one(_PROTECTED), _SHARED) == {_MARKER, _NONE}
    assert model.punched(_one(_PAGE), _SHARED) == {_NONE}


def test_huge_pages_may_make_others_exist() -> None:
    """A missing page may come, but not one with a marker, nor one that userfaultfd waits for."""
    made = State(0, True, False)
    assert model.loosened(_one(_NONE), _THP) == {_NONE, made}
    assert model.loosened(_one(_NONE), _ANON) == {_NONE}
    assert model.loosened(_one(_MARKER), _THP) == {_MARKER}
    assert model.loosened(_one(_NONE), _THP._replace(mode=3)) == {_NONE}
    assert model.collapsed(_one(_NONE), _ANON) == {_NONE, made}
    assert model.collapsed(_one(_MARKER, _PROTECTED), _THP) == {_MARKER, _PROTECTED}
    assert model.collapsed(_one(_NONE), _SHARED) == {_NONE}


def test_fill() -> None:
    """UFFDIO_COPY fills what does not exist, and refuses what does; ZEROPAGE may refuse a marker."""
    both = _one(_NONE, _PAGE, _MARKER)
    assert model.filled(both, _ANON, 3, wp=True, done=True) == {State(3, True, True)}
    assert model.filled(both, _ANON, 3, wp=False, done=False) == {_PAGE}
    assert model.filled(both, _ANON, 0, wp=False, done=False) == {_PAGE, _MARKER}
    assert model.filled(_one(_PAGE), _ANON, 3, wp=False, done=True) == frozenset()


def test_move() -> None:
    """A moved page is not protected where that is not registered, and open where it is."""
    assert model.moved(_one(_PROTECTED, _NONE), _ANON._replace(mode=int(Mode.MISSING))) == {_PAGE}
    assert model.moved(_one(_PROTECTED), _ANON) == {_PAGE, _PROTECTED}
    assert model.moved(_one(_NONE), _ANON) == frozenset()


@pytest.mark.parametrize(
    ("state", "rules", "written", "left"),
    [
        (_PAGE, _ANON, True, {_PAGE}),
        (_PAGE, _ANON, False, set()),
        (_PROTECTED, _ANON, True, set()),
        (_PROTECTED, _ANON, False, {_PROTECTED}),
        (_NONE, _ANON, True, {_NONE}),
        (_NONE, _ANON, False, {_NONE}),
        (_PAGE, _SHARED, False, {_PAGE}),
        (_MARKER, _SHARED, True, set()),
    ],
)
def test_scan(state: State, rules: Rules, written: bool, left: set[State]) -> None:
    """A page with an entry is written if, and only if, it is not protected; one without is open."""
    assert model.scanned(_one(state), rules, written, protect=False) == left


def test_scan_that_protects() -> None:
    """What it reports is protected; a page without an entry may get a marker."""
    assert model.scanned(_one(_PAGE), _ANON, True, protect=True) == {_PROTECTED}
    assert model.scanned(_one(_PROTECTED), _ANON, False, protect=True) == {_PROTECTED}
    assert model.scanned(_one(_NONE), _ANON, True, protect=True) == {_NONE, _MARKER}


@pytest.mark.parametrize(
    ("present", "swapped", "bit", "left"),
    [
        (True, False, False, {_PAGE}),
        (True, False, True, {_PROTECTED}),
        (False, True, True, {_PROTECTED, _MARKER}),
        (False, True, False, {_PAGE}),
        (False, False, False, {_NONE}),
        (False, False, True, set()),
    ],
)
def test_pagemap(present: bool, swapped: bool, bit: bool, left: set[State]) -> None:
    """An entry tells which of the states a page of anonymous memory is in."""
    states = _one(_NONE, _MARKER, _PAGE, _PROTECTED)
    assert model.shown(states, _ANON, present, swapped, bit) == left


def test_pagemap_of_a_file_tells_protection_alone() -> None:
    """Reclaim may unmap a page of a file at any time."""
    states = _one(_NONE, _MARKER, _PAGE, _PROTECTED)
    assert model.shown(states, _SHARED, False, False, False) == {_NONE, _PAGE}
    assert model.shown(states, _SHARED, True, False, True) == {_MARKER, _PROTECTED}


def test_words() -> None:
    """States are named for what was reached."""
    assert (
        model.words([_NONE, State(0, True, True), _PROTECTED._replace(lazy=True)])
        == "none|page+wp+lazy|zero+wp"
    )
    assert model.words([_MARKER]) == "marker"
