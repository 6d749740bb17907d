"""Plants live faults in QEMU, and explores from scratch until each is found; the time is printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from harness.status import EXIT_ERROR, EXIT_FAIL, EXIT_PASS
from snapproof.explore.campaign import Campaign
from snapproof.explore.draw import Drawer
from tests_functional.lib.run import Run
from tests_functional.planted.live_faults import LIVE_FAULTS
from validators.faults.live.wrapper import faulty_qemu

# A stall of a writer is judged only in a whole snapshot, which takes too short here for a stall to show.
_NOT_YET = ("skip_release", "lose_events", "delay_events")
FAULTS = tuple(name for name in LIVE_FAULTS if name not in _NOT_YET)
"""The live faults that are planted."""


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


def search_faults(run: Run, drawer: Drawer, seed: int, seconds: float, show: Callable[[str], None]) -> int:
    """Plant each fault in turn and explore until it is found; print a table; return the exit code.

    Args:
        run: QEMU, guest, host and the results folder.
        drawer: draws the lists.
        seed: of the lists.
        seconds: most for one fault.
        show: shows the running line.
    """
    print(f"{'fault':18} {'result':7} {'seconds':>7} {'lists':>5} {'acts':>8}  found as")
    searches = []
    for fault in FAULTS:
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
    qemu = faulty_qemu(fault, run.stack.executable, folder, run.provisioning)
    faulty = replace(run, folder=folder, stack=replace(run.stack, executable=qemu.executable))
    campaign = Campaign(faulty, seed, show)
    begun, code = time.monotonic(), ""
    while not code and time.monotonic() - begun < seconds:
        steps = drawer.draw(f"{seed}:{campaign.lists}", campaign.coverage, avoid=True)
        record = campaign.take(steps)
        named = [one for one in record.violations if LIVE_FAULTS[fault].causes(one)]
        code = named[0].code.value if named else ""
        show(f"{fault}: {campaign.line}")
    return Search(fault, time.monotonic() - begun, campaign.lists, code, qemu.acts)


def _summarise(searches: Sequence[Search]) -> int:
    missed = [one for one in searches if not one.code]
    for one in missed:
        why = "was not found" if one.acts else "never acted, so nothing is known about it"
        print(f"{'FAIL' if one.acts else 'ERROR'}: '{one.fault}' {why}, in {one.lists} lists.")
    print(f"Not planted: {', '.join(_NOT_YET)} (see docs/explore.md).")
    if missed:
        return EXIT_FAIL if any(one.acts for one in missed) else EXIT_ERROR
    times = [one.seconds for one in searches]
    print(
        f"PASS: all {len(searches)} planted faults were found, median {median(times):.1f} s, "
        f"worst {max(times):.1f} s."
    )
    return EXIT_PASS
