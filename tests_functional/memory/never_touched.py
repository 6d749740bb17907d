"""Takes a snapshot while the guest writes to pages of its RAM that were never touched before T0.

In a guest with Linux its kernel fills files. A bare guest writes to the pages that pattern `sparse` leaves
out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from guest_images.agent.bare_agent import BareAgent
from harness.deadline import Deadline
from harness.linux.huge_pages import huge_pages_disabled
from harness.qemu import migration
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine
from harness.qemu.ram import RamBlock, main_block, populated_bytes, populated_pages, read_pages
from tests_functional.lib.build_outcome import outcome_of_cycles
from tests_functional.lib.cycle import judge_cycle, writing_guest
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, save
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.checks import judged

Flags = npt.NDArray[np.bool_]

# The writers take the pages that the boot has touched and freed, and leave enough untouched pages.
_RAM_MIB = 512
_COVERAGE = 0.5
_FILL_SECONDS = 30.0
_LEAST_PAGES = 100
_PAGE_WORDS = TARGET_PAGE_BYTES // 8
# New files again and again, 80 MiB in all: each takes pages that were free.
_FILLING = (
    "(n=0; while [ $n -lt 320 ]; do dd if=/dev/urandom of=/tmp/fill-$n bs=64k count=4; n=$((n+1)); done) "
    "> /dev/null 2>&1 &"
)
_MET = "Pages that were never touched before T0 were written while RAM was saved."


@dataclass
class _Untouched:
    """The pages of main RAM that were never touched before the save.

    Attributes:
        block: main RAM.
        pages: bool[pages], True where the page was in no page table of QEMU.
        met: how many of these pages were written while RAM was being saved.
    """

    block: RamBlock
    pages: Flags
    met: int = 0


def never_touched(run: Run) -> Outcome:
    """Take a snapshot with a golden image while the guest writes to free pages.

    Only a golden image covers these pages, because no writer of the agent owns them.
    """
    begun = time.monotonic()
    run = replace(run, stack=replace(run.stack, ram_mib=_RAM_MIB, coverage=_COVERAGE))
    if run.stack.image.bare:
        run = replace(run, pattern="sparse")
    # With huge pages most free pages of the guest would count as touched.
    with huge_pages_disabled(), writing_guest(run) as source:
        machine, folder = source.guest.machine, run.folder / "01-seeds"
        folder.mkdir()
        with migration.capability_on(machine, migration.BACKGROUND_SNAPSHOT):
            block = main_block(machine)
            agent = source.guest.agent
            holes = agent if isinstance(agent, BareAgent) else None
            if not holes:
                _start_filling(source.guest, block, run.deadline.at_most(_FILL_SECONDS))
            untouched = _Untouched(block, ~populated_pages(machine, block))
            run.say(
                f"01-seeds: saving; {int(untouched.pages.sum())} pages of '{block.idstr}' were never touched."
            )
            snapshot = save(
                Flow.STOP_MIGRATE_CONT,
                source.guest,
                source.counters,
                folder,
                run.deadline.at_most(SMALL_SAVE_SECONDS),
                Acts(saving=lambda: _look_on(machine, untouched, holes)),
            )
        met = judged("memory/never-touched/met", _MET, [], {"pages": untouched.met})
        checks = [*judge_source(source.guest, source.before), met]
        cycle = judge_cycle(run, source, snapshot, "01-seeds", checks)
        machine.quit()
    return outcome_of_cycles(run, [cycle], time.monotonic() - begun)


def _start_filling(guest: Guest, block: RamBlock, deadline: Deadline) -> None:
    """Have the guest fill free pages, and wait until it writes to pages that were never touched.

    Raises:
        DeadlineExpired: it does not write to any of them.
    """
    before = populated_bytes(guest.machine, block)
    guest.shell.check(_FILLING)
    deadline.wait_for(
        lambda: populated_bytes(guest.machine, block) > before + _LEAST_PAGES * TARGET_PAGE_BYTES,
        "The guest's first writes to pages that were never touched",
    )


def _write_holes(agent: BareAgent) -> None:
    """Have the agent write to some pages; in between the writers write, so that none of them stands still."""
    for index in range(2 * _LEAST_PAGES):
        agent.pause()
        agent.write_hole(0, index)
        agent.resume()


def _look_on(machine: Machine, untouched: _Untouched, holes: BareAgent | None = None) -> None:
    """Wait until the guest has written to enough of the pages.

    Args:
        machine: QEMU.
        untouched: the pages.
        holes: a bare guest's agent, which is asked to write; a kernel writes by itself.

    Raises:
        SetupBroken: the save ended before that. SubjectFailed: it failed.
    """
    written_at_first = _written(machine, untouched)
    if holes:
        _write_holes(holes)
    while untouched.met < _LEAST_PAGES:
        written = _written(machine, untouched)
        # The status is read after the count, so the counted pages were written before the end of the save.
        migration.require_under_way(
            machine,
            f"The save ended when {untouched.met} pages that were never touched had been written, fewer "
            f"than {_LEAST_PAGES}, so this run proves nothing.",
        )
        untouched.met = written - written_at_first


def _written(machine: Machine, untouched: _Untouched) -> int:
    """Return how many of the pages are no longer zero."""
    pieces = read_pages(machine, untouched.block, untouched.pages)
    return sum(
        int(np.frombuffer(data, "<u8").reshape(-1, _PAGE_WORDS).any(axis=1).sum())
        for _address, data in pieces
    )
