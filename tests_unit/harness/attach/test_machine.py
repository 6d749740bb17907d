"""Contract: a QEMU that others have ended is nobody's failure, and one that has ended by itself is QEMU's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.attach.machine import AttachedMachine
from harness.errors import SetupBroken, SubjectFailed
from harness.qemu.qmp import Event


@pytest.mark.parametrize(
    ("alive", "reasons", "error"),
    [
        (False, ["host-signal"], SetupBroken),
        (False, ["host-qmp-quit"], SetupBroken),
        (False, ["guest-shutdown"], SetupBroken),
        (False, ["host-error"], SubjectFailed),
        (False, ["host-signal", "host-error"], SubjectFailed),
        # It has ended without a word: a crash, or a signal that cannot be caught.
        (False, [], SubjectFailed),
        (True, ["guest-reset"], SubjectFailed),
    ],
)
def test_who_has_ended_qemu(tmp_path: Path, alive: bool, reasons: list[str], error: type[Exception]) -> None:
    """By the reason that QEMU gives."""
    machine = AttachedMachine(tmp_path / "socket", tmp_path, 1.0)
    events = [Event("STOP", {}, 0.0), *(Event("SHUTDOWN", {"reason": one}, 0.0) for one in reasons)]
    told: Any = SimpleNamespace(events_since=lambda _mark: events)
    process: Any = SimpleNamespace(alive=alive, argv=(), pid=0)
    machine._qmp, machine.process = told, process
    machine._guard_runs = lambda: True  # type: ignore[method-assign]
    found = machine.failure("QEMU ended before it answered 'query-migrate'")
    assert type(found) is error
    assert (reasons[-1] in found.sentence) if error is SetupBroken else ("SHUTDOWN" not in found.sentence)
