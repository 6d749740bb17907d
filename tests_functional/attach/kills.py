"""The instants at which the process that attaches is killed, and a process that kills itself at one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.attach.guard import END_COPY, PUT_BACK, RESTORE_COPY, UNPIN
from harness.attach.machine import AttachedMachine
from harness.attach.pins import pin_place
from harness.attach.virsh import Domain
from harness.deadline import Deadline
from harness.qemu.qmp import QmpSession
from tests_functional.attach.look import GoldenWay
from tests_functional.attach.save import save_attached
from tests_functional.attach.through_libvirt import restore_through_libvirt

_SAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Instant:
    """An instant of a save.

    Attributes:
        command: the QMP command at which it is.
        after: whether QEMU has answered that command, or it has not been sent.
        guard: whether the guard is killed, and not the process that it serves.
    """

    command: str
    after: bool
    guard: bool = False

    @property
    def label(self) -> str:
        """Name it in results."""
        what = "guard" if self.guard else "command"
        return f"{what}-{'after' if self.after else 'before'}-{self.command}"

    @property
    def words(self) -> str:
        """Say when it is and what is killed."""
        what = "guard" if self.guard else "command"
        return f"{what} killed {'after' if self.after else 'before'} '{self.command}'"


HANDED_OVER = "hand-over"
"""The command that gives QEMU the file: `add-fd` or `getfd`, as it takes it."""

INSTANTS = (
    Instant(HANDED_OVER, True),
    Instant("migrate-set-capabilities", False),
    Instant("migrate-set-capabilities", True),
    Instant("stop", True),
    Instant("human-monitor-command", True),
    Instant("migrate", False),
    Instant("migrate", True),
    Instant("query-migrate", True),
    Instant("cont", False),
    Instant("cont", True),
    Instant(PUT_BACK, False),
    Instant("stop", True, guard=True),
    Instant("migrate", True, guard=True),
    Instant("cont", False, guard=True),
)
"""Before and after each thing that a save does to a VM."""

PIN_INSTANTS = (
    Instant("nbd-server-start", True),
    Instant("blockdev-add", True),
    Instant("blockdev-backup", True),
    Instant("block-export-add", True),
    Instant("block-export-add", True, guard=True),
    Instant(UNPIN, False),
)
"""The same for a VM with a disk that it can write to, which is pinned."""

THROUGH_INSTANTS = (
    Instant(RESTORE_COPY, True),
    Instant(RESTORE_COPY, True, guard=True),
    Instant(END_COPY, False),
)
"""The same for a domain whose snapshot libvirt restores."""

ALL_INSTANTS = (*INSTANTS, *PIN_INSTANTS, *THROUGH_INSTANTS)


def save_and_be_killed(way: Path | Domain, folder: Path, ram_mib: int, number: int) -> None:
    """Save a VM, and kill this process or the guard at the instant of that number in ALL_INSTANTS."""
    instant = ALL_INSTANTS[number]
    with pin_place() as place, AttachedMachine(way, folder, 30.0) as machine:

        def kill() -> None:
            os.kill(machine.guard_pid if instant.guard else os.getpid(), signal.SIGKILL)

        arm(machine, instant, kill)
        snapshot = save_attached(machine, folder, ram_mib, GoldenWay.MEMORY, _SAVE_SECONDS, place)
        if instant in THROUGH_INSTANTS:
            restore_through_libvirt(machine, snapshot, folder, _SAVE_SECONDS)
        machine.unpin()


def way_text(way: Path | Domain) -> str:
    """Return the way to a VM as an argument of this program."""
    return json.dumps(asdict(way)) if isinstance(way, Domain) else str(way)


def parse_way(text: str) -> Path | Domain:
    """Return the way to a VM that `way_text` has made a text of."""
    return Domain(**json.loads(text)) if text.startswith("{") else Path(text)


def arm(machine: AttachedMachine, instant: Instant, act: Callable[[], None]) -> None:
    """Have the session do something at the instant, once."""
    session, execute = machine.qmp, machine.qmp.execute
    pass_descriptor, add_descriptor = session.pass_descriptor, session.add_descriptor
    armed = [True]

    def strike(command: str, after: bool) -> None:
        if armed and (command, after) == (instant.command, instant.after):
            armed.clear()
            act()

    def executing(
        command: str, arguments: Mapping[str, Any] | None = None, deadline: Deadline | None = None
    ) -> Any:
        strike(command, False)
        answer = execute(command, arguments, deadline)
        strike(command, True)
        return answer

    def passing(descriptor: int, name: str, deadline: Deadline | None = None) -> None:
        pass_descriptor(descriptor, name, deadline)
        strike(HANDED_OVER, True)

    def adding(descriptor: int, name: str, deadline: Deadline | None = None) -> int:
        number = add_descriptor(descriptor, name, deadline)
        strike(HANDED_OVER, True)
        return number

    _replace(session, execute=executing, pass_descriptor=passing, add_descriptor=adding)


def _replace(session: QmpSession, **functions: Any) -> None:
    for name, function in functions.items():
        setattr(session, name, function)


if __name__ == "__main__":
    save_and_be_killed(parse_way(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
