"""Contract: a snapshot that cannot be restored is wrong; machinery that is missing is no fault of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import MachineryMissing, SnapproofError, SubjectFailed
from tests_functional.lib import restored_checks
from tests_unit.support.scenario_values import AT_T0, SOURCE, sentences, snapshot, stack


def _failing_machine(error: SnapproofError) -> type:
    class Failing:
        def __init__(self, *_rest: object, **_more: object) -> None: ...

        def __enter__(self) -> None:
            raise error

        def __exit__(self, *_rest: object) -> None: ...

    return Failing


def test_failed_restore_is_a_violation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that does not take the file makes the snapshot wrong; missing machinery does not."""
    arguments = (stack(tmp_path), snapshot(), SOURCE, AT_T0, tmp_path, Deadline(5))
    monkeypatch.setattr(restored_checks, "SpawnedMachine", _failing_machine(SubjectFailed("QEMU ended.")))
    (result,) = restored_checks.judge_restored(*arguments)
    assert (result.name, sentences(result)) == ("restore", ["The restored guest failed: QEMU ended."])
    monkeypatch.setattr(restored_checks, "SpawnedMachine", _failing_machine(MachineryMissing("No setpriv.")))
    with pytest.raises(MachineryMissing):
        restored_checks.judge_restored(*arguments)
