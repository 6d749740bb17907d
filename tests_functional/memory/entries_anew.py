"""Takes snapshots while the host makes the page table entries of guest RAM anew, from outside QEMU.

Half of the acts find QEMU stopped by SIGSTOP: nothing but the kernel changes entries then, so each page that
was protected must be so afterwards. The other half race with the guest and with QEMU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from guest_images.agent.bare_agent import BareAgent
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.linux.held import held
from harness.qemu import migration
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine, known_pid
from harness.qemu.page_states import Flags, page_states, protected_pages
from harness.qemu.ram import RamBlock, main_block
from harness.userfaultfd import libc
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, resting, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SAVE_SECONDS
from tests_functional.memory.host_ways import HOST_WAYS, PIECE_BYTES, HostWay
from tests_functional.memory.kinds import MEMORY_KINDS
from validators.checks import Problem, judged
from validators.verdict import CheckResult

Spoil = Callable[[int, int], None]
"""Plants a fault after an act: called with QEMU's process id and the address of the piece."""

_FLOWS = (Flow.STOP_AND_SAVE, Flow.STOP_MIGRATE_CONT, Flow.LIVE)
_MET = "While RAM was saved, the host made entries of its pages anew, and the guest then needed some of them."
_KEPT = "A page that was protected before the host made its entry anew is protected afterwards."
_STALLS = "The test stops QEMU for moments, and the writers with it."
# Pages of each half, in each snapshot. Compaction chooses them itself.
_LEAST_PAGES, _LEAST_CHOSEN = 512, 1
# Of the pages met, and of those that only the kernel has touched.
_LEAST_NEEDED, _HOLES = 64, 48
_LEAST_HUGE_MIB = 32
_NEEDED_SECONDS = 20.0
_SPARSE = "sparse"


def entries_anew(
    name: str, memory: str = "anonymous", spoil: Spoil | None = None
) -> Callable[[Run], Outcome]:
    """Return a scenario for one of HOST_WAYS: stop-and-save as the control, with a golden image, and live.

    Args:
        name: of the way.
        memory: one of MEMORY_KINDS.
        spoil: plants a fault, None for none.
    """
    return lambda run: _with(run, name, memory, spoil)


def _with(run: Run, name: str, memory: str, spoil: Spoil | None) -> Outcome:
    way, begun = HOST_WAYS[name], time.monotonic()
    way.require()
    run = replace(run, stack=MEMORY_KINDS[memory].stack(run.stack))
    cycles: list[Cycle] = []
    with way.around():
        for flow in _FLOWS:
            label = f"{len(cycles) + 1:02d}-{flow.label}"
            # The golden image alone has the pages that the guest leaves alone.
            pattern = _SPARSE if way.zero_filled and flow.golden else run.pattern
            # The first snapshot splits the entries of huge pages, and the acts leave few large pages.
            this = replace(run, pattern=pattern)
            (run.folder / label).mkdir()
            with writing_guest(replace(this, folder=run.folder / label)) as source:
                cycles.append(_Disturbed(this, source, way, name, spoil).cycle(flow, label))
                source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun, compare_stuns=False)


@dataclass
class _Disturbed:
    """A snapshot of a guest whose page table entries the host makes anew.

    Attributes:
        run: the test's.
        source: the guest.
        way: how the host does it.
        name: of the way.
        spoil: plants a fault.
        stopped: pages met while QEMU was stopped.
        running: pages met while it ran.
        needed: pages met while protected that QEMU has released since.
        holes: pages of zeros that the guest wrote to afterwards.
        lost: offsets of pages that are no longer protected.
    """

    run: Run
    source: Source
    way: HostWay
    name: str
    spoil: Spoil | None
    stopped: int = 0
    running: int = 0
    needed: int = 0
    holes: int = 0
    lost: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._machine: Machine = self.source.guest.machine
        self._pid = known_pid(self._machine)
        self._block: RamBlock = main_block(self._machine)
        if not self._block.host_address:
            raise SetupBroken("QEMU does not tell the address of the guest's main RAM.")
        self._least = _LEAST_CHOSEN if self.way.everywhere else _LEAST_PAGES

    def cycle(self, flow: Flow, label: str) -> Cycle:
        """Take and judge the snapshot."""
        run, folder = self.run, self.run.folder / label
        if self.way.huge:
            self._require_huge()
        run.say(f"{label}: saving ({flow.value}); meanwhile the host acts on pages: {self.name}.")
        acts = Acts(saving=lambda: self._disturb(flow.background))
        limit = run.deadline.at_most(SAVE_SECONDS * run.stack.slowness)
        snapshot = take(flow, self.source.guest, self.source.counters, folder, limit, acts)
        checks = [*judge_source(self.source.guest, self.source.before), self._met(), self._kept()]
        with resting(run.stack, self._machine, checks):
            return judge_cycle(run, self.source, snapshot, label, checks, stalls_by_test=_STALLS)

    def _require_huge(self) -> None:
        found = int(page_states(self._machine, self._block).large.sum()) * libc.PAGE_BYTES // MIB
        if found < _LEAST_HUGE_MIB:
            raise NotApplicable(f"This host gave {found} MiB of large pages, too few to prove anything.")

    def _disturb(self, background: bool) -> None:
        """Have the host act until enough pages were met, and then wait until the guest has needed some.

        Raises:
            SetupBroken: the save ended before, so that this proves nothing.
            SubjectFailed: it failed.
        """
        protected = protected_pages(self._machine, self._block)
        met = np.zeros(len(protected), np.bool_)
        while not self._enough:
            for number, piece in enumerate(self._pieces()):
                first = (piece.host_address - self._block.host_address) // libc.PAGE_BYTES
                found = self._act(piece, background, stopped=number % 2 == 0)
                met[first : first + len(found)] |= found
                if self._enough and not self.way.zero_filled:
                    break
            self._require_active(f"{self.stopped} and {self.running} pages were met, of {self._least} each")
        if not background:
            return
        if self.run.pattern == _SPARSE:
            self._write_holes()
        if self.way.protected:
            self._wait_needed(met & protected)

    @property
    def _enough(self) -> bool:
        return min(self.stopped, self.running) >= self._least

    def _pieces(self) -> list[RamBlock]:
        """Return the pieces to act on, in order: those that QEMU saves last come first.

        Pages that must have been released are those that it saves first.
        """
        if self.way.everywhere:
            return [self._block] * 2
        first = -(-self._block.host_address // PIECE_BYTES) * PIECE_BYTES
        end = self._block.host_address + self._block.used_bytes
        places = range(first, end - PIECE_BYTES + 1, PIECE_BYTES)
        pieces = [replace(self._block, host_address=at, used_bytes=PIECE_BYTES) for at in places]
        return pieces[::-1] if self.way.protected else pieces

    def _act(self, piece: RamBlock, background: bool, stopped: bool) -> Flags:
        """Have the host act on a piece once, and return which of its pages were met."""
        with held(self._pid) if stopped else nullcontext():
            before = page_states(self._machine, piece)
            self.way.act(self._pid, piece.host_address, piece.used_bytes)
            if self.spoil:
                self.spoil(self._pid, piece.host_address)
            after = page_states(self._machine, piece)
        met = self.way.met(before, after)
        if background and self.way.protected:
            met &= before.protected
        if stopped:
            self.stopped += int(met.sum())
            lost = np.flatnonzero(before.protected & ~after.protected) * libc.PAGE_BYTES
            self.lost += (lost + piece.host_address - self._block.host_address).tolist()
        else:
            self.running += int(met.sum())
        return met

    def _write_holes(self) -> None:
        """Have the guest write to pages of zeros, from the end of its RAM on."""
        agent, pages = self.source.guest.agent, self.source.status.data_pages
        assert isinstance(agent, BareAgent), "the rows name a bare guest"
        for index in range(pages - 1, pages // 4, -max(pages // (2 * _HOLES), 1)):
            agent.pause()
            agent.write_hole(0, index)
            agent.resume()
            self._require_active(f"{self.holes} pages of zeros had been written")
            self.holes += 1
            if self.holes == _HOLES:
                return

    def _wait_needed(self, met: Flags) -> None:
        least = min(_LEAST_NEEDED, self._least)

        def enough() -> bool:
            self.needed = int((met & ~protected_pages(self._machine, self._block)).sum())
            return self.needed >= least

        Deadline(_NEEDED_SECONDS).wait_for(
            enough, "The release of pages that the host acted on", interval=0.05
        )
        self._require_active(f"{self.needed} of the pages had been needed")

    def _require_active(self, so_far: str) -> None:
        # The status is read after the counts, so what was counted came before the end of the save.
        sentence = f"The save ended when {so_far}, so this run proves nothing."
        migration.require_under_way(self._machine, sentence)

    def _met(self) -> CheckResult:
        facts = {
            "pages while QEMU was stopped": self.stopped,
            "pages while QEMU ran": self.running,
            "released after it": self.needed,
            "pages of zeros written": self.holes,
        }
        return judged(f"memory/{self.name}/met", _MET, [], facts)

    def _kept(self) -> CheckResult:
        problems = [
            Problem(
                Code.MEMORY_PROTECTION_LOST,
                f"The page at {offset:#x} of RAMBlock '{self._block.idstr}' was write-protected, and is not "
                f"since the host's kernel {self.way.words}; QEMU was stopped meanwhile.",
                {"way": self.name},
            )
            for offset in self.lost
        ]
        return judged(f"memory/{self.name}/protection-kept", _KEPT, problems)
