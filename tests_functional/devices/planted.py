"""Plants faults at the ends of saves and restores; the sweep must call each by its code."""

from __future__ import annotations

import enum
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.codes import Code
from tests_functional.devices.sweep import sweep
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged
from validators.verdict import CheckResult

DEVICE, SECTION = "ne2k_pci", "/ne2000"
"""The device that is swept, and how the name of its section ends: one that ends with memory of its own."""

MONITOR = "snapproof-planted-"
"""How the name of the abstract socket of QEMU's further monitor begins; its process id follows."""

ACTED, QEMU_PID = "SNAPPROOF_ACTED", "SNAPPROOF_QEMU_PID"
"""Names of variables that the stand-in for `cat` gets: a folder, and the process id of its QEMU."""

_CAUGHT = "The sweep is red with a planted fault, and says what is wrong."
_HOLDS = "Each planted fault is caught by the sweep."
_ROOT = Path(__file__).parents[2]


class Act(enum.StrEnum):
    """What the stand-in for `cat` does, or the script that runs QEMU."""

    REFUSE = "refuse"
    KILL = "kill"
    CUT = "cut"
    FLIP_DEVICE = "flip-device"
    FLIP_RAM = "flip-ram"
    STOP = "stop"
    START_STOPPED = "start-stopped"


class Place(enum.StrEnum):
    """Where it does so."""

    SAVE = "save"
    LOAD = "load"
    SAVE_AGAIN = "save-again"
    START = "start"


@dataclass(frozen=True)
class DeviceFault:
    """A planted fault.

    Attributes:
        name: what results call it.
        act: what is done.
        place: where.
        code: of the violation that must be found.
    """

    name: str
    act: Act
    place: Place
    code: Code


DEVICE_FAULTS = (
    DeviceFault("saved-state-is-other", Act.FLIP_DEVICE, Place.SAVE, Code.DEVICES_NOT_AT_T0),
    DeviceFault("loaded-state-is-other", Act.FLIP_DEVICE, Place.LOAD, Code.DEVICES_DIFFERS),
    DeviceFault("loaded-memory-is-other", Act.FLIP_RAM, Place.LOAD, Code.DEVICES_RAM_DIFFERS),
    DeviceFault("file-is-cut", Act.CUT, Place.LOAD, Code.DEVICES_NOT_RESTORED),
    DeviceFault("sink-refuses", Act.REFUSE, Place.SAVE, Code.DEVICES_NOT_SAVED),
    DeviceFault("sink-refuses-again", Act.REFUSE, Place.SAVE_AGAIN, Code.DEVICES_NOT_SAVED_AGAIN),
    DeviceFault("guest-does-not-start", Act.START_STOPPED, Place.START, Code.DEVICES_NOT_BOOTED),
    DeviceFault("source-is-stopped", Act.STOP, Place.SAVE, Code.DEVICES_STANDS_STILL),
    DeviceFault("qemu-is-killed", Act.KILL, Place.SAVE, Code.DEVICES_LOST),
)


def planted_faults(run: Run) -> Outcome:
    """Sweep one device with each fault planted; each must be caught."""
    begun = time.monotonic()
    checks = [_planted(run, fault) for fault in DEVICE_FAULTS]
    return outcome_of(run, checks, time.monotonic() - begun, _HOLDS)


def _planted(run: Run, fault: DeviceFault) -> CheckResult:
    folder = run.folder / fault.name
    folder.mkdir()
    faulty = replace(run.stack, executable=_wrapper(fault, run.stack.executable, folder))
    outcome = sweep(DEVICE)(replace(run, stack=faulty, folder=folder))
    acted = (folder / "acted").exists()
    return judge_planted(fault, acted, [one for one in outcome.checks if one.name == f"devices/{DEVICE}"])


def judge_planted(fault: DeviceFault, acted: bool, checks: Sequence[CheckResult]) -> CheckResult:
    """Check that the sweep's check of the device has a violation with the fault's code."""
    found = [violation.code for check in checks for violation in check.violations]
    problems = []
    if not acted:
        problems.append(Problem(Code.SETUP_BROKEN, f"The planted fault '{fault.name}' never acted."))
    elif fault.code not in found:
        seen = ", ".join(sorted(set(found))) or "nothing"
        sentence = f"The planted fault '{fault.name}' must be found as {fault.code}, and {seen} was found."
        problems.append(Problem(Code.DEVICES_FAULT_UNSEEN, sentence))
    return judged(f"planted/{fault.name}", _CAUGHT, problems)


def stand_in_command(fault: DeviceFault) -> list[str]:
    """Return the command that stands in for `cat`, to which that of `cat` is appended."""
    return [sys.executable, "-m", "tests_functional.devices.planted_sink", fault.act, fault.place]


def _wrapper(fault: DeviceFault, qemu: Path, folder: Path) -> Path:
    """Write a script that runs QEMU with our stand-in for `cat`."""
    programs = folder / "bin"
    programs.mkdir()
    stand_in = shlex.join(stand_in_command(fault))
    # The monitor is an abstract socket, whose name does not depend on how deep the folder is.
    monitor = f"socket,id=planted,path={MONITOR}$$,abstract=on,server=on,wait=off"
    further = {
        Act.STOP: f'set -- "$@" -chardev "{monitor}" -mon chardev=planted,mode=control\n',
        Act.START_STOPPED: _start_stopped(folder),
    }.get(fault.act, "")
    cat = f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(_ROOT))} exec {stand_in} "$@"\n'
    for path, text in (
        (programs / "cat", cat),
        (
            folder / "qemu",
            f"#!/bin/sh\nPATH={shlex.quote(str(programs))}:$PATH\n{ACTED}={shlex.quote(str(folder))}\n"
            f'{QEMU_PID}=$$\nexport PATH {ACTED} {QEMU_PID}\n{further}exec {shlex.quote(str(qemu))} "$@"\n',
        ),
    ):
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    return folder / "qemu"


def _start_stopped(folder: Path) -> str:
    """Return lines of shell that have a QEMU with the device not start its guest, unless it is restored."""
    acted = shlex.quote(str(folder / "acted"))
    return f'case "$*" in *-incoming*) ;; *{DEVICE}*) : >{acted}; set -- "$@" -S;; esac\n'
