"""Takes snapshots of guest RAM that the host keeps in huge pages, in small pages only, or merged by KSM."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.linux.huge_pages import huge_pages_disabled, huge_pages_setting
from harness.linux.ksm import merge_equal_pages, require_ksm
from harness.linux.mappings import HUGE_PAGES, MERGED_PAGES, mapped_bytes
from harness.qemu import migration
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine, known_pid
from harness.qemu.ram import RamBlock, main_block
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, save
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from tests_functional.memory.same_file import fill_file, write_file
from validators.checks import judged

_MERGE_SECONDS = 60.0
_AT_T0 = "At T0 QEMU's RAM was in the kind of host pages that this test is about."
_LEAST_HUGE_MIB = 32
_LEAST_PARTED_MIB = 0.25
_FILE_MIB = 32


@dataclass(frozen=True)
class HostPages:
    """A kind of host pages that QEMU's RAM is in.

    Attributes:
        reason: why it is tested.
        require: raises NotApplicable if this host has no such pages.
        around: context in which QEMU is started.
        reached: brings RAM into such pages, and returns a figure that proves it.
        meanwhile: called during the save; waits for what the test has to see.
    """

    reason: str
    require: Callable[[], None]
    around: Callable[[], AbstractContextManager[None]]
    reached: Callable[[Source], dict[str, int]]
    meanwhile: Callable[[Source], None] | None = None


def _require_huge() -> None:
    setting = huge_pages_setting()
    # QEMU asks for huge pages with madvise() for all RAM, since 1.0.
    if setting not in ("always", "madvise"):
        raise NotApplicable(
            f"This host gives no transparent huge pages: '{setting or 'nothing'}' is set in "
            "/sys/kernel/mm/transparent_hugepage/enabled; 'madvise' or 'always' is needed."
        )


def _require_huge_switch() -> None:
    if not huge_pages_setting():
        raise NotApplicable("This host's kernel is built without transparent huge pages.")


def _mapped(machine: Machine, block: RamBlock, field: str) -> int:
    """Return the bytes of a RAMBlock that a field of smaps counts."""
    end = block.host_address + block.used_bytes
    return mapped_bytes(known_pid(machine), block.host_address, end, field)


def _in_huge_pages(source: Source) -> dict[str, int]:
    machine = source.guest.machine
    found = _mapped(machine, main_block(machine), HUGE_PAGES) // MIB
    if found < _LEAST_HUGE_MIB:
        raise NotApplicable(f"This host gave {found} MiB of huge pages, too few to prove anything.")
    return {"MiB in huge pages": found}


def _in_small_pages(source: Source) -> dict[str, int]:
    machine = source.guest.machine
    found = _mapped(machine, main_block(machine), HUGE_PAGES)
    if found:
        raise SetupBroken(f"QEMU's RAM has {found} bytes in huge pages that were switched off.")
    return {"MiB in huge pages": found}


def _merged(source: Source) -> dict[str, int]:
    """Have the host merge equal pages of a file in the guest."""
    source.guest.shell.check(fill_file(_FILE_MIB))
    merge_equal_pages(Deadline(_MERGE_SECONDS))
    found = merged_mib(source)
    if found < _FILE_MIB:
        raise SetupBroken(f"The host merged {found:.1f} MiB, fewer than the {_FILE_MIB} MiB that are equal.")
    return {"MiB merged": int(found)}


def merged_mib(source: Source) -> float:
    """Return how many MiB of QEMU's RAM KSM has merged."""
    machine = source.guest.machine
    return _mapped(machine, main_block(machine), MERGED_PAGES) / MIB


def part_merged(source: Source, file_mib: int) -> None:
    """Have the guest write to the file, and wait until the writes have unmerged enough pages.

    Raises:
        SetupBroken: the save ended before. SubjectFailed: it failed.
    """
    machine = source.guest.machine
    block = main_block(machine)
    at_first = _mapped(machine, block, MERGED_PAGES)
    source.guest.shell.check(write_file(file_mib))
    written = 0.0
    while written < _LEAST_PARTED_MIB:
        now = _mapped(machine, block, MERGED_PAGES)
        # The status is read after the count, so the counted pages were written before the end of the save.
        migration.require_under_way(
            machine,
            f"The save ended when {written:.1f} MiB of merged pages had been written, fewer than "
            f"{_LEAST_PARTED_MIB}, so this run proves nothing.",
        )
        written = (at_first - now) / MIB
        # Reading smaps locks QEMU's address space, so QEMU gets time in between.
        machine.pause(Deadline(1), 0.2)


HOST_PAGES: Mapping[str, HostPages] = {
    "huge-pages-on": HostPages(
        "write protection splits a huge page, and each of its small pages must be protected",
        _require_huge,
        nullcontext,
        _in_huge_pages,
    ),
    "huge-pages-off": HostPages(
        "the same RAM in small pages only, which other tests may have or not",
        _require_huge_switch,
        huge_pages_disabled,
        _in_small_pages,
    ),
    "merged-pages": HostPages(
        "a page merged by KSM is write-protected by KSM as well, and a write copies it",
        require_ksm,
        nullcontext,
        _merged,
        lambda source: part_merged(source, _FILE_MIB),
    ),
}


def host_pages(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario for one of HOST_PAGES: stopped at T0 with a golden image, and live.

    Each snapshot is of a new guest, because the first save splits the huge pages of its guest.
    """
    return lambda run: _on(run, name, HOST_PAGES[name])


def _on(run: Run, name: str, kind: HostPages) -> Outcome:
    kind.require()
    begun = time.monotonic()
    # KSM merges only memory that QEMU has marked as mergeable; that is QEMU's default.
    run = replace(run, stack=replace(run.stack, machine=f"{run.stack.machine},mem-merge=on"))
    cycles: list[Cycle] = []
    for flow in (Flow.STOP_MIGRATE_CONT, Flow.LIVE):
        label = f"{len(cycles) + 1:02d}-{flow.label}"
        folder = run.folder / label
        folder.mkdir()
        with kind.around(), writing_guest(replace(run, folder=folder)) as source:
            cycles.append(_cycle(run, source, flow, label, name, kind))
            source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun)


def _cycle(run: Run, source: Source, flow: Flow, label: str, name: str, kind: HostPages) -> Cycle:
    machine = source.guest.machine
    migration.require_capability(machine, migration.BACKGROUND_SNAPSHOT)
    facts = kind.reached(source)
    run.say(
        f"{label}: saving ({flow.value}); {', '.join(f'{what}: {count}' for what, count in facts.items())}."
    )
    look_on = kind.meanwhile
    snapshot = save(
        flow,
        source.guest,
        source.counters,
        run.folder / label,
        run.deadline.at_most(SMALL_SAVE_SECONDS),
        Acts(saving=(lambda: look_on(source)) if look_on else None),
    )
    checks = [*judge_source(source.guest, source.before), judged(f"memory/{name}/met", _AT_T0, [], facts)]
    return judge_cycle(run, source, snapshot, label, checks)
