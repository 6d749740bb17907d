"""Contract: a port is read as the number that QEMU's monitor prints, and anything else is no value."""

from __future__ import annotations

from typing import cast

import pytest

from harness.errors import SetupBroken
from harness.qemu.io_ports import read_port, write_port
from harness.qemu.machine import Machine


class _Machine:
    """Gives one answer to the human monitor's commands, and keeps them."""

    def __init__(self, answer: str) -> None:
        self.commands: list[str] = []
        self._answer = answer

    def hmp(self, command: str) -> str:
        self.commands.append(command)
        return self._answer


@pytest.mark.parametrize(
    ("size", "command", "answer", "value"),
    [
        (1, "i /b 0x1f7", "portb[0x01f7] = 0x58\r\n", 0x58),
        (2, "i /h 0x1f7", "portw[0x01f7] = 0x1234", 0x1234),
        (4, "i /w 0x1f7", "portl[0x01f7] = 0xffff0000", 0xFFFF0000),
    ],
)
def test_value_of_a_port(size: int, command: str, answer: str, value: int) -> None:
    """The answer's number is the value, for each size of an access."""
    machine = _Machine(answer)
    assert read_port(cast(Machine, machine), 0x1F7, size) == value
    assert machine.commands == [command]


@pytest.mark.parametrize("answer", ["", "unknown command: 'i'", "portb[0x01f7] ="])
def test_no_value(answer: str) -> None:
    """A QEMU whose monitor has no such command, as for a guest that is no x86, is named by its words."""
    with pytest.raises(SetupBroken, match="does not read an I/O port; it says: "):
        read_port(cast(Machine, _Machine(answer)), 0x1F7, 1)


def test_written_port() -> None:
    """A write names size, port and value."""
    machine = _Machine("")
    write_port(cast(Machine, machine), 0x505, 1, 1)
    assert machine.commands == ["o /b 0x505 0x1"]
