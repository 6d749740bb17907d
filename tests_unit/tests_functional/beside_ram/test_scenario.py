"""Contract: a save that is over before the guest has stored is an error; one that failed is QEMU's matter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from guest_images.agent.bare_agent import StateRefused
from harness.codes import Code
from harness.errors import SetupBroken
from tests_functional.beside_ram import scenario
from tests_functional.beside_ram.kinds import STATE_KINDS
from tests_functional.beside_ram.scenario import _Cycle, _Stored
from tests_unit.support.scenario_values import codes

_BEFORE = 8


def _stored(monkeypatch: pytest.MonkeyPatch, status: str, refused: bool = False) -> _Stored:
    """Store while a save has a status; return what was stored."""

    def store(_self: _Cycle, _guest: object, _number: int) -> None:
        if refused:
            raise StateRefused("The processor refuses it.")

    monkeypatch.setattr(_Cycle, "_store", store)
    monkeypatch.setattr(scenario, "_STORING_SECONDS", 0.01)
    run: Any = SimpleNamespace(say=lambda _text: None)
    guest: Any = SimpleNamespace(machine=SimpleNamespace(query_migrate=lambda: {"status": status}))
    found = _Stored(_BEFORE)
    _Cycle(run, "hash-table", STATE_KINDS["hash-table"], _BEFORE, True)._store_on(guest, found)
    return found


def test_save_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells which rounds were stored before the end of the save."""
    with pytest.raises(SetupBroken, match="proves nothing"):
        _stored(monkeypatch, "completed")


@pytest.mark.parametrize("status", ["active", "failed"])
def test_save_that_goes_on_or_failed(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """A save that failed is found by the wait for its end, with QEMU's words."""
    assert _stored(monkeypatch, status).last > _BEFORE


def test_guest_that_cannot_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is kept for the check of the source."""
    assert _stored(monkeypatch, "active", refused=True).refusal == "The processor refuses it."


@pytest.mark.parametrize("stores", [True, False])
def test_restored_guest_that_stores_no_more(monkeypatch: pytest.MonkeyPatch, stores: bool) -> None:
    """It is judged by the round that it had to store, so that a fault planted so is seen."""
    kind = STATE_KINDS["storage-keys"]
    memory = {index: kind.value(_BEFORE, index) for index in range(3)}

    def store(_self: _Cycle, _guest: object, number: int) -> None:
        memory.update({index: kind.value(number, index) for index in memory})

    monkeypatch.setattr(_Cycle, "_store", store)
    monkeypatch.setattr(_Cycle, "_load", lambda *_: [*memory.values()])
    cycle = _Cycle(cast(Any, None), "storage-keys", kind, _BEFORE, stores)
    restored, goes_on = cycle._look(cast(Any, None))
    assert codes(restored) == []
    assert codes(goes_on) == ([] if stores else [Code.BESIDE_RAM_STUCK])
