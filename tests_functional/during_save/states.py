"""Things that change a guest's run state while RAM is saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from harness.qemu.io_ports import write_port
from tests_functional.during_save.thing import Place, Thing, command, commands, in_turn
from tests_functional.run_states.states import RUN_STATES

# QEMU hw/watchdog/wdt_ib700.c, hw/misc/pvpanic-isa.c and hw/input/pckbd.c: as in run_states/states.py.
_WATCHDOG_PORT, _AT_ONCE = 0x443, 15
_PANIC_PORT, _PANICKED = 0x505, 1
_KEYBOARD_PORT, _RESET = 0x64, 0xFE
# QEMU's tests are started with -no-reboot, by which a reset is a power-off.
_REBOOT = ("-action", "reboot=reset")


def _enter(state: str) -> Callable[[Place], None]:
    """Return a function that brings the guest into a run state, as `run-states.*` do before a save."""
    return lambda place: RUN_STATES[state].enter(place.guest, place.deadline)


def _write(port: int, value: int) -> Callable[[Place], None]:
    return lambda place: write_port(place.machine, port, 1, value)


def _await_event(name: str) -> Callable[[Place], None]:
    """Return a function that waits for an event of QEMU's; all earlier ones of that name count."""

    def wait(place: Place) -> None:
        qmp = place.machine.qmp
        qmp.wait_event(lambda event: event.name == name, 0, place.deadline, f"send the event {name}")

    return wait


def _in_state(state: str, reason: str) -> Thing:
    return Thing(reason, _enter(state), RUN_STATES[state].arguments, state=state)


_IO_ERROR = _in_state("io-error", "the host's disk may have no room because of the snapshot itself")
_RESET_THING = Thing(
    "users and watchdogs reset guests at any time, and QEMU writes ROMs to RAM then",
    in_turn(command("system_reset"), _await_event("RESET")),
    _REBOOT,
    same_guest=False,
)

STATE_THINGS: Mapping[str, Thing] = {
    "nothing": Thing("a save that nothing disturbs is the control of this method", lambda _place: None),
    "stop": Thing("management stops a guest at any time", command("stop"), state="paused"),
    "stop-cont": Thing("the guest is stopped and goes on", commands(("stop", {}), ("cont", {}))),
    "cont": Thing("a guest that runs is told to go on", command("cont")),
    "reset": _RESET_THING,
    "reset-by-guest": replace(
        _RESET_THING,
        reason="an operating system reboots",
        do=in_turn(_write(_KEYBOARD_PORT, _RESET), _await_event("RESET")),
    ),
    "reset-by-watchdog": replace(
        _RESET_THING,
        reason="a guest that hangs is reset by its watchdog",
        do=in_turn(_write(_WATCHDOG_PORT, _AT_ONCE), _await_event("RESET")),
        arguments=("-device", "ib700", "-action", "watchdog=reset", *_REBOOT),
    ),
    "reset-ends": Thing(
        "with -no-reboot a reset ends QEMU, and the half file must not be taken for a snapshot",
        command("system_reset"),
        state="",
    ),
    "power-off": Thing(
        "with -no-shutdown QEMU keeps a guest that is off, and the save has to end",
        _enter("shutdown"),
        RUN_STATES["shutdown"].arguments,
        state="shutdown",
        same_guest=False,
    ),
    "powerdown-button": Thing(
        "a guest that does not listen to the button runs on", command("system_powerdown")
    ),
    "quit": Thing("QEMU is told to quit in mid-save", command("quit"), state=""),
    "suspend": Thing(
        "a guest suspends itself at any time, and RAM is all that it keeps",
        _enter("suspended"),
        state="suspended",
        same_guest=False,
    ),
    "suspend-wakeup": Thing(
        "a wake-up resets the machine, which writes ROMs to RAM, and the guest goes on from RAM",
        in_turn(_enter("suspended"), command("system_wakeup"), _await_event("WAKEUP")),
        same_guest=False,
    ),
    "wakeup": Thing("a guest that is awake cannot be woken up", command("system_wakeup"), refused=True),
    "nmi": Thing("an NMI is how users ask a guest for a dump", command("inject-nmi")),
    "panic": _in_state("guest-panicked", "a guest panics at any time"),
    "panic-ends": Thing(
        "a panic ends QEMU by default, and the half file must not be taken for a snapshot",
        _write(_PANIC_PORT, _PANICKED),
        ("-device", "pvpanic"),
        state="",
    ),
    "watchdog": _in_state("watchdog", "a guest that the save slows down may be late for its watchdog"),
    "io-error": _IO_ERROR,
    "io-error-cont": replace(
        _IO_ERROR,
        reason="the disk has room again, and the guest goes on while its RAM is still being saved",
        do=in_turn(_enter("io-error"), command("cont")),
        state="running",
    ),
    "migrate-pause": Thing(
        "it is for post-copy, which a background snapshot is not", command("migrate-pause"), refused=True
    ),
}
