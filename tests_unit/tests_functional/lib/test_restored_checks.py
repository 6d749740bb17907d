"""Contract: a snapshot that cannot be restored is wrong; machinery that is missing is no fault of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, HostTooBusy, MachineryMissing, SnapproofError, SubjectFailed
from harness.guest.shell import GuestUnreachable
from harness.linux.run_queue import ProcessorTime
from harness.qemu.spawned_machine import SpawnedMachine
from harness.status import Status
from tests_functional.lib import restored_checks
from tests_unit.support.scenario_values import (
    AT_T0,
    SOURCE,
    check,
    sentences,
    snapshot,
    stack,
    stand_in_guest,
)
from validators.verdict import CheckResult

_UNFINISHED = GuestUnreachable("'x' did not end.", code=Code.GUEST_COMMAND_UNFINISHED)


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


class _Restored:
    """A new QEMU that takes the file; notes what is asked of it."""

    def __init__(self, done: list[str]) -> None:
        self.qmp, self.done = self, done

    def __enter__(self) -> _Restored:
        return self

    def __exit__(self, *_: object) -> None:
        self.done.append("ended")

    def execute(self, command: str) -> None:
        self.done.append(command)

    def quit(self) -> None:
        self.done.append("quit")


@pytest.mark.parametrize(
    ("state", "onwards"),
    [("running", []), ("paused", ["cont"]), ("suspended", ["system_wakeup"])],
)
def test_restored_guest_is_made_to_go_on_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, onwards: list[str]
) -> None:
    """Out of the state of T0, which the file holds; its QEMU ends as it should, and further checks count."""
    done: list[str] = []
    clock = iter((100.0, 102.34567))

    @contextmanager
    def logged_in(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(agent=None)

    def inside(*given: object) -> list[CheckResult]:
        done.append("slept" if given[4] else "awake")
        assert given[3] == 100.0
        return [check("memory")]

    monkeypatch.setattr(restored_checks, "SpawnedMachine", lambda *_, **__: _Restored(done))
    monkeypatch.setattr(restored_checks, "logged_in", logged_in)
    monkeypatch.setattr(restored_checks, "check_restored_guest", inside)
    monkeypatch.setattr(restored_checks, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(restored_checks.migration, "restore", lambda *_: state)  # type: ignore[attr-defined]
    arguments = (stack(tmp_path), snapshot(state=state), SOURCE, AT_T0, tmp_path, Deadline(5))
    found = restored_checks.judge_restored(*arguments, further=lambda _guest: [check("disk")])
    assert done == [*onwards, "slept" if state == "suspended" else "awake", "quit", "ended"]
    assert [result.name for result in found] == ["restore", "restored-state", "memory", "disk"]
    assert found[0].facts == {"load_seconds": 2.346}
    assert {result.status for result in found} == {Status.PASS}


@pytest.mark.parametrize(
    ("error", "ran_ns", "alive", "blamed"),
    [
        (GuestUnreachable("It did not answer."), 2, True, True),
        (DeadlineExpired("It did not happen."), 2, True, True),
        (DeadlineExpired("It did not happen."), 8, True, False),
        (GuestUnreachable("It did not answer."), 2, False, False),
        (SubjectFailed("QEMU ended."), 2, True, False),
        (_UNFINISHED, 2, True, False),
    ],
)
def test_host_is_blamed_for_a_late_guest(
    monkeypatch: pytest.MonkeyPatch, error: SnapproofError, ran_ns: int, alive: bool, blamed: bool
) -> None:
    """Only where the guest is late, its QEMU is there, and it got less than half of what it wanted."""
    monkeypatch.setattr(restored_checks, "processor_time", lambda _pid: ProcessorTime(ran_ns, 10 - ran_ns))
    machine = cast(SpawnedMachine, SimpleNamespace(pid=1, alive=lambda: alive, hmp=lambda _: ""))
    with pytest.raises(SnapproofError) as caught, restored_checks._late_explained(machine):
        raise error
    assert isinstance(caught.value, HostTooBusy) == blamed
    assert (caught.value is error) != blamed
    if blamed:
        assert "got 20% of the processor time" in caught.value.sentence
        assert caught.value.status is Status.ERROR


@pytest.mark.parametrize(
    ("error", "alive", "seconds", "blamed"),
    [
        (GuestUnreachable("It did not answer."), True, 40.0, True),
        (DeadlineExpired("It did not happen."), True, 40.0, True),
        (_UNFINISHED, True, 40.0, True),
        (GuestUnreachable("It did not answer."), True, 0.0, False),
        (GuestUnreachable("It did not answer."), False, 40.0, False),
        (SubjectFailed("QEMU ended."), True, 40.0, False),
    ],
)
def test_lost_timer_is_blamed_for_a_late_guest(
    monkeypatch: pytest.MonkeyPatch, error: SnapproofError, alive: bool, seconds: float, blamed: bool
) -> None:
    """Even on a busy host, which loses no interrupt; only where the guest is late and its QEMU is there."""
    monkeypatch.setattr(
        restored_checks, "processor_time", lambda _pid: ProcessorTime(8 if not blamed else 2, 2)
    )
    monkeypatch.setattr(restored_checks, "lost_decrementer", lambda _machine: seconds)
    machine = cast(
        SpawnedMachine,
        SimpleNamespace(
            pid=1, alive=lambda: alive, failure=lambda text, code: SubjectFailed(text, code=code)
        ),
    )
    with pytest.raises(SnapproofError) as caught, restored_checks._late_explained(machine):
        raise error
    assert (caught.value.code is Code.RESTORED_TIMER_LOST) == blamed
    assert (caught.value is error) != blamed
    if blamed:
        assert "decrementer expired 40 s ago" in caught.value.sentence


def test_there_are_no_further_checks_unless_asked_for() -> None:
    """The default adds none."""
    assert restored_checks.no_more(stand_in_guest(SOURCE)) == []
