"""Contract: lost protection is named by page and cause, and a way is proven by pages that it changed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.codes import Code
from harness.errors import SetupBroken
from harness.qemu.page_states import PageStates
from harness.qemu.ram import RamBlock
from harness.status import Status
from tests_functional.memory import entries_anew
from tests_functional.memory.entries_anew import _Disturbed
from tests_functional.memory.host_ways import HOST_WAYS

_PIECE = RamBlock("pc.ram", 8192, 1 << 21)
_PRESENT, _PROTECTED, _PART = 1 << 63, 1 << 57, 1 << 16


def _states(protected: bool, large: bool, pages: int = 2) -> PageStates:
    entry = _PRESENT | 7 | (_PROTECTED if protected else 0)
    return PageStates(
        np.full(pages, entry, dtype=np.uint64), np.full(pages, _PART if large else 0, dtype=np.uint64)
    )


def _disturbed(monkeypatch: pytest.MonkeyPatch, *states: PageStates, status: str = "active") -> Any:
    """Return a snapshot's disturbance in which the pages are in these states, one after the other."""
    monkeypatch.setattr(entries_anew, "main_block", lambda _machine: _PIECE)
    monkeypatch.setattr(entries_anew, "known_pid", lambda _machine: 0)
    monkeypatch.setattr(entries_anew, "page_states", lambda _m, _b, left=list(states): left.pop(0))
    monkeypatch.setattr(entries_anew, "held", lambda _pid: nullcontext())
    machine = SimpleNamespace(query_migrate=lambda: {"status": status})
    source: Any = SimpleNamespace(guest=SimpleNamespace(machine=machine))
    way = replace(HOST_WAYS["split"], act=lambda *_: None)
    run: Any = SimpleNamespace()
    return _Disturbed(run, source, way, "split", None)


def test_a_page_that_lost_its_protection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each such page is a violation with its offset and the way."""
    found = _disturbed(monkeypatch, _states(True, True), _states(False, False))
    found._act(_PIECE, True, stopped=True)
    check = found._kept()
    assert check.status is Status.FAIL
    first = check.violations[0]
    assert (first.code, dict(first.fields)) == (Code.MEMORY_PROTECTION_LOST, {"way": "split"})
    assert "page at 0x0 of RAMBlock 'pc.ram'" in first.sentence
    assert len(found.lost) == 2


def test_kept_protection_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that were split and are still protected are met, and none is lost."""
    found = _disturbed(monkeypatch, _states(True, True), _states(True, False))
    assert found._act(_PIECE, True, stopped=True).all()
    assert (found.stopped, found.running, found._kept().status) == (2, 0, Status.PASS)


def test_qemu_may_release_pages_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an act that races with QEMU a released page is no violation."""
    found = _disturbed(monkeypatch, _states(True, True), _states(False, False))
    found._act(_PIECE, True, stopped=False)
    assert (found.running, found._kept().status) == (2, Status.PASS)


def test_only_protected_pages_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a background snapshot pages that QEMU has released already prove nothing; as a control they do."""
    states = (_states(False, True), _states(False, False))
    assert not _disturbed(monkeypatch, *states)._act(_PIECE, True, stopped=True).any()
    assert _disturbed(monkeypatch, *states)._act(_PIECE, False, stopped=True).all()


def test_pages_that_stay_large_are_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """An act that changed nothing counts for nothing."""
    found = _disturbed(monkeypatch, _states(True, True), _states(True, True))
    assert not found._act(_PIECE, True, stopped=True).any()


def test_a_save_that_ended_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error of the test's own."""
    with pytest.raises(SetupBroken, match="proves nothing"):
        _disturbed(monkeypatch, status="completed")._require_active("0 pages were met")
