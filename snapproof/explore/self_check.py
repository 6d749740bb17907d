"""Plants live faults in QEMU, and explores from scratch until each is found; the time is printed."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Protocol

from harness.codes import Code
from harness.plural import counted
from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_PASS
from snapproof.explore.campaign import Campaign
from snapproof.explore.draw import Drawer
from tests_functional.lib.run import Run
from tests_functional.planted.live_faults import LIVE_FAULTS
from validators.faults.live.wrapper import faulty_qemu
from validators.verdict import Violation

HANG = "hang"
FAULTS = (*LIVE_FAULTS, HANG)
"""What is planted: the live faults, and a QEMU that stands still for good."""

_HANGS_AFTER_SECONDS = 4
_LATE = (
    Code.QMP_NO_ANSWER, Code.QMP_NO_EVENT, Code.WAIT_EXPIRED, Code.GUEST_NO_ANSWER, Code.GUEST_WRONG_STATE,
    Code.SAVE_UNFINISHED, Code.SAVE_NOT_CLEANED_UP,
)  # fmt: skip
# $$ stays the number of the process that becomes QEMU. If it has ended, another may have its number.
_HANGING = """#!/bin/sh
born() {{ cut -d ' ' -f 22 "/proc/$$/stat" 2> /dev/null; }}
(
    before=$(born)
    sleep {seconds}
    [ "$(born)" = "$before" ] && echo hung >> {acts} && kill -STOP $$
) < /dev/null > /dev/null 2>&1 &
exec {qemu} "$@"
"""


class _Planted(Protocol):
    """A QEMU with a fault, and how often it acted."""

    @property
    def executable(self) -> Path:
        """The QEMU."""

    @property
    def acts(self) -> int:
        """How often it acted."""


@dataclass(frozen=True)
class HangingQemu:
    """A QEMU that is stopped by SIGSTOP some seconds after its start, and never goes on.

    Attributes:
        executable: wrapper script, for use as `--qemu`.
        log: has a line for each time.
    """

    executable: Path
    log: Path

    @property
    def acts(self) -> int:
        """How often it was stopped."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def hanging_qemu(qemu: Path, folder: Path, seconds: int = _HANGS_AFTER_SECONDS) -> HangingQemu:
    """Make a wrapper script that runs `qemu`, and stops it after some seconds."""
    script, log = folder / f"{HANG}-qemu", folder / f"{HANG}.acts"
    words = {"seconds": seconds, "acts": shlex.quote(str(log)), "qemu": shlex.quote(str(qemu))}
    script.write_text(_HANGING.format(**words))
    script.chmod(0o755)
    return HangingQemu(script, log)


def names_fault(fault: str, violation: Violation) -> bool:
    """Return whether a violation names a planted fault as its cause."""
    return violation.code in _LATE if fault == HANG else LIVE_FAULTS[fault].causes(violation)


@dataclass(frozen=True)
class Search:
    """How a planted fault was searched for.

    Attributes:
        fault: its name.
        seconds: until it was found, or the search was given up.
        lists: lists that were run.
        code: of the violation that names it, "" if it was not found.
        acts: how often the fault acted.
    """

    fault: str
    seconds: float
    lists: int
    code: str
    acts: int


def search_faults(
    run: Run,
    drawer: Drawer,
    seed: int,
    seconds: float,
    show: Callable[[str], None],
    faults: Sequence[str] = FAULTS,
) -> int:
    """Plant each fault in turn and explore until it is found; print a table; return the exit code.

    Args:
        run: QEMU, guest, host and the results folder.
        drawer: draws the lists.
        seed: of the lists.
        seconds: most for one fault.
        show: shows the running line.
        faults: names of those that are planted.
    """
    print(f"{'fault':18} {'result':7} {'seconds':>7} {'lists':>5} {'acts':>8}  found as")
    searches = []
    for fault in faults:
        found = _search(run, drawer, fault, seed, seconds, show)
        searches.append(found)
        result = "found" if found.code else "missed"
        print(
            f"{fault:18} {result:7} {found.seconds:7.1f} {found.lists:5} {found.acts:8}  {found.code or '-'}",
            flush=True,
        )
    return _summarise(searches)


def _search(
    run: Run, drawer: Drawer, fault: str, seed: int, seconds: float, show: Callable[[str], None]
) -> Search:
    folder = run.folder / "self-check" / fault
    folder.mkdir(parents=True)
    qemu: _Planted
    if fault == HANG:
        qemu = hanging_qemu(run.stack.executable, folder)
    else:
        qemu = faulty_qemu(fault, run.stack.executable, folder, run.provisioning)
    faulty = replace(run, folder=folder, stack=replace(run.stack, executable=qemu.executable))
    campaign = Campaign(faulty, seed, show)
    begun, code = time.monotonic(), ""
    while not code and time.monotonic() - begun < seconds:
        steps = drawer.draw(f"{seed}:{campaign.lists}", campaign.coverage, avoid=True)
        record = campaign.take(steps)
        named = [one for one in record.violations if names_fault(fault, one)]
        code = named[0].code.value if named else ""
        show(f"{fault}: {campaign.line}")
    return Search(fault, time.monotonic() - begun, campaign.lists, code, qemu.acts)


def _summarise(searches: Sequence[Search]) -> int:
    missed = [one for one in searches if not one.code]
    for one in missed:
        why = "was not found" if one.acts else "never acted, so nothing is known about it"
        print(f"{'FAIL' if one.acts else 'ERROR'}: '{one.fault}' {why}, in {counted(one.lists, 'list')}.")
    if missed:
        return EXIT_FAIL if any(one.acts for one in missed) else EXIT_ERROR
    times = [one.seconds for one in searches]
    print(
        f"PASS: found {counted(len(searches), 'planted fault')}, all of them, median {median(times):.1f} s, "
        f"worst {max(times):.1f} s."
    )
    return EXIT_PASS
