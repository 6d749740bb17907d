"""Contract: a guest that a planted fault silences counts as caught only if the undamaged one answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import HostTooBusy
from tests_functional.planted import selftest
from tests_functional.planted.selftest import Form, judge_by_restoring
from tests_unit.support.scenario_values import SOURCE, check, make_run, snapshot
from validators.faults.files import Row
from validators.verdict import CheckResult

_ROW = Row("vcpu-bit-flip", "stream", (), False, "there", "It is not looked at.", "needs restore", 1)


def _judged(monkeypatch: pytest.MonkeyPatch, folder: Path, *answers: Any) -> tuple[Row, list[str]]:
    """The row after restores that end so, and their labels."""
    left, labels = list(answers), []

    def restored(_run: Any, _form: Any, _path: Path, label: str) -> list[CheckResult]:
        labels.append(label)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    monkeypatch.setattr(selftest, "_restored", restored)
    monkeypatch.setattr(selftest, "apply_fault", lambda *_: None)
    row = judge_by_restoring(make_run(folder), Form("plain", snapshot(), SOURCE), _ROW)
    assert not left
    return row, labels


def test_outcomes_of_a_restore(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A failed check caught it, and none missed it."""
    row, labels = _judged(monkeypatch, tmp_path, [check("restore", "It died.")])
    assert (row.outcome, row.caught_by, row.detail) == ("caught by restore", ("restore",), "It died.")
    assert labels == ["vcpu-bit-flip"]
    assert _judged(monkeypatch, tmp_path, [check("restore")])[0].outcome == "missed"


def test_silence_on_a_busy_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the fault's if it comes twice and an undamaged guest answers in between; else it is not."""
    busy = HostTooBusy("It did not answer, and got 41%.")
    row, labels = _judged(monkeypatch, tmp_path, busy, [check("restore")], busy)
    assert (row.outcome, row.caught_by) == ("caught by restore", ("restore",))
    assert labels == ["vcpu-bit-flip", "undamaged-after-vcpu-bit-flip", "vcpu-bit-flip-again"]
    row, _ = _judged(monkeypatch, tmp_path, busy, [check("restore")], [check("restore", "It died.")])
    assert (row.outcome, row.detail) == ("caught by restore", "It died.")
    row, _ = _judged(monkeypatch, tmp_path, busy, [check("restore")], [check("restore")])
    assert row.outcome == "missed"
    with pytest.raises(HostTooBusy):
        _judged(monkeypatch, tmp_path, busy, busy)
