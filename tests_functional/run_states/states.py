"""Lists the run states in which a guest's vCPUs stand still, and brings a running guest into each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from guest_images.agent.bare_agent import BareAgent
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable
from harness.qemu.acpi_sleep import suspend_to_ram
from harness.qemu.io_ports import read_port, write_port
from harness.qemu.machine import Machine
from tests_functional.lib.guest import Guest
from validators.checks import Problem

# The command returns to us before the guest sleeps.
_FALL_ASLEEP = "(sleep 1; echo mem > /sys/power/state) > /dev/null 2>&1 &"

# QEMU hw/misc/pvpanic-isa.c; docs/specs/pvpanic.rst: bit 0 says that the guest has panicked.
_PANIC_PORT, _PANICKED = 0x505, 1
# QEMU hw/watchdog/wdt_ib700.c: the number of a time, of which 15 is 0 s.
_WATCHDOG_PORT, _AT_ONCE = 0x443, 15
# QEMU hw/input/pckbd.c, KBD_CCMD_RESET: resets the machine, which `-no-reboot` makes a power-off.
_KEYBOARD_PORT, _RESET = 0x64, 0xFE
# A controller of our own, at ports that no machine uses. ATA-8: registers, commands, bits of status and
# control.
_IDE_PORT, _IDE_CONTROL_PORT = 0x1E8, 0x3EE
_SECTORS, _LBA_LOW, _LBA_MID, _LBA_HIGH, _DEVICE, _COMMAND = range(2, 8)
_WRITE_SECTORS, _FIRST_DEVICE, _NO_INTERRUPT, _WANTS_DATA = 0x30, 0xE0, 1 << 1, 1 << 3
_SECTOR_BYTES = 512
_DISK = '{"driver": "null-co", "size": 1048576, "node-name": "full"}'
# One write fails as on a full disk, by ENOSPC; when the guest goes on, QEMU tries it again.
_FULL_DISK = (
    '{"driver": "blkdebug", "node-name": "full", "image": {"driver": "null-co", "size": 1048576}, '
    '"inject-error": [{"event": "none", "iotype": "write", "errno": 28, "once": true}]}'
)
_IDE = (
    *("-device", f"isa-ide,id=ide-full,iobase={_IDE_PORT:#x},iobase2={_IDE_CONTROL_PORT:#x},irq=15"),
    *("-device", "ide-hd,bus=ide-full.0,drive=full,werror=stop,rerror=stop"),
)


@dataclass(frozen=True)
class RunState:
    """A run state in which the guest's vCPUs are stopped.

    Attributes:
        name: as `query-status` gives it.
        reason: why it is tested.
        enter: brings a running guest into the state.
        arguments: further ones of QEMU that the state needs.
        restored_arguments: those of the QEMU that restores it, None for the same.
        by_ports: whether it is entered through I/O ports.
    """

    name: str
    reason: str
    enter: Callable[[Guest, Deadline], None]
    arguments: tuple[str, ...] = ()
    restored_arguments: tuple[str, ...] | None = None
    by_ports: bool = False


def _pause(guest: Guest, _deadline: Deadline) -> None:
    guest.machine.qmp.execute("stop")


def _suspend(guest: Guest, deadline: Deadline) -> None:
    """Have the guest suspend itself to RAM (ACPI S3); a bare guest's part is played through I/O ports.

    Raises:
        NotApplicable: the guest's kernel cannot suspend to RAM, or its machine has no power management.
    """
    if isinstance(guest.agent, BareAgent):
        suspend_to_ram(guest.machine)
        _wait(guest.machine, "suspended", deadline)
        return
    states = guest.shell.check("cat /sys/power/state").split()
    if "mem" not in states:
        raise NotApplicable(
            f"The guest's kernel cannot suspend to RAM, only: {' '.join(states) or 'nothing'}."
        )
    guest.shell.check(_FALL_ASLEEP)
    _wait(guest.machine, "suspended", deadline)


def _panic(guest: Guest, deadline: Deadline) -> None:
    write_port(guest.machine, _PANIC_PORT, 1, _PANICKED)
    _wait(guest.machine, "guest-panicked", deadline)


def _expire_watchdog(guest: Guest, deadline: Deadline) -> None:
    write_port(guest.machine, _WATCHDOG_PORT, 1, _AT_ONCE)
    _wait(guest.machine, "watchdog", deadline)


def _power_off(guest: Guest, deadline: Deadline) -> None:
    write_port(guest.machine, _KEYBOARD_PORT, 1, _RESET)
    _wait(guest.machine, "shutdown", deadline)


def _fill_disk(guest: Guest, deadline: Deadline) -> None:
    """Write one sector to a disk that is full, as a driver without interrupts and DMA does."""
    machine = guest.machine
    write_port(machine, _IDE_CONTROL_PORT, 1, _NO_INTERRUPT)
    registers = {
        _DEVICE: _FIRST_DEVICE,
        _SECTORS: 1,
        _LBA_LOW: 0,
        _LBA_MID: 0,
        _LBA_HIGH: 0,
        _COMMAND: _WRITE_SECTORS,
    }
    for register, value in registers.items():
        write_port(machine, _IDE_PORT + register, 1, value)
    deadline.wait_for(
        lambda: bool(read_port(machine, _IDE_PORT + _COMMAND, 1) & _WANTS_DATA), "The disk's wish for data"
    )
    for _ in range(_SECTOR_BYTES // 2):
        write_port(machine, _IDE_PORT, 2, 0)
    _wait(machine, "io-error", deadline)


def _wait(machine: Machine, state: str, deadline: Deadline) -> None:
    """Wait until the guest is in a state; DeadlineExpired is no failure of QEMU's."""
    deadline.wait_for(
        lambda: machine.qmp.execute("query-status")["status"] == state, f"The guest's run state '{state}'"
    )


def state_problems(now: str, before: str) -> list[Problem]:
    """Return what is wrong with a guest's run state after a snapshot, if it is not the one from before."""
    if now == before:
        return []
    sentence = f"The guest is '{now}' after the snapshot, and was '{before}' before."
    return [Problem(Code.RUN_STATE_CHANGED, sentence, {"state": now})]


_ALL = (
    RunState("paused", "management software stops a guest and expects it to stay stopped", _pause),
    RunState("suspended", "a guest that sleeps must stay asleep until it is woken up", _suspend),
    RunState(
        "guest-panicked",
        "a guest that has panicked is stopped so that somebody looks at it, and saves it for that",
        _panic,
        ("-device", "pvpanic", "-action", "panic=pause"),
        by_ports=True,
    ),
    RunState(
        "watchdog",
        "a guest whose watchdog has expired is stopped so that somebody looks at it",
        _expire_watchdog,
        ("-device", "ib700", "-action", "watchdog=pause"),
        by_ports=True,
    ),
    RunState(
        "io-error",
        "a guest is stopped when its disk's host is full, and must go on when there is room again",
        _fill_disk,
        ("-blockdev", _FULL_DISK, *_IDE),
        ("-blockdev", _DISK, *_IDE),
        by_ports=True,
    ),
    RunState(
        "shutdown",
        "a guest that has powered itself off must not run again",
        _power_off,
        ("-no-shutdown",),
        by_ports=True,
    ),
)
RUN_STATES: Mapping[str, RunState] = {state.name: state for state in _ALL}
"""The states by their name."""
