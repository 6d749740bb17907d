"""Contract: a guest is in a run state when QEMU says so; one that does not get there is an error of ours."""

from __future__ import annotations

from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlineExpired
from tests_functional.lib.restored_checks import ONWARDS
from tests_functional.run_states.states import RUN_STATES

_BY_PORTS = [state for state in RUN_STATES.values() if state.by_ports]
_WANTS_DATA = 0x58
_WORDS_OF_A_SECTOR = 256


class _Machine:
    """A QEMU whose guest is in a state once a port has been written so many times."""

    def __init__(self, state: str, port: str, times: int) -> None:
        self.qmp = self
        self.written: list[str] = []
        self._state, self._port, self._times = state, port, times

    def hmp(self, command: str) -> str:
        if command.startswith("o "):
            self.written.append(command)
        return f"portb[0x1] = {_WANTS_DATA:#x}"

    def execute(self, _command: str) -> dict[str, str]:
        times = sum(self._port in command for command in self.written)
        return {"status": self._state if times == self._times else "running"}


def _entered(name: str, port: str, times: int) -> _Machine:
    machine = _Machine(name, port, times)
    guest = cast(Any, type("Guest", (), {"machine": machine})())
    RUN_STATES[name].enter(guest, Deadline(0.2))
    return machine


@pytest.mark.parametrize(
    ("name", "port", "times"),
    [
        ("guest-panicked", " 0x505 0x1", 1),
        ("watchdog", " 0x443 0xf", 1),
        ("shutdown", " 0x64 0xfe", 1),
        ("io-error", "o /h 0x1e8 0x0", _WORDS_OF_A_SECTOR),
    ],
)
def test_state_is_entered_by_ports(name: str, port: str, times: int) -> None:
    """The device's port is written as its driver does, and QEMU is asked for the state."""
    assert _entered(name, port, times).written


@pytest.mark.parametrize("state", _BY_PORTS, ids=lambda state: str(state.name))
def test_state_that_is_not_entered_is_an_error(state: Any) -> None:
    """A device that is missing, or set up otherwise by the firmware, says nothing about snapshots."""
    with pytest.raises(DeadlineExpired, match=f"The guest's run state '{state.name}'"):
        _entered(state.name, "nowhere", 1)


def test_guest_that_is_off_alone_cannot_go_on() -> None:
    """Every other state has a command by which source and restored guest go on."""
    assert set(RUN_STATES) - set(ONWARDS) == {"shutdown"}


def test_restored_disk_has_room() -> None:
    """The guest whose disk was full goes on where there is room: its QEMU injects no error."""
    state = RUN_STATES["io-error"]
    assert state.restored_arguments is not None
    assert "inject-error" in " ".join(state.arguments)
    assert "inject-error" not in " ".join(state.restored_arguments)
    assert len(state.arguments) == len(state.restored_arguments)
