"""Finds all RAM of a machine, writes to each kind of it while it is saved, and looks for that in the file.

For each way of writing there is a snapshot of its own: the guest is stopped at T0, all RAM is copied, and
after T0 a word of each piece of RAM is written while RAM is being saved. The file must have none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from harness.errors import NotApplicable, SetupBroken
from harness.linux.host_mapping import host_mappings
from harness.qemu import migration
from harness.qemu.configuration import MIB
from harness.qemu.machine import known_pid
from harness.qemu.memory_tree import FoundRam, bytes_behind_main, find_ram, is_protected
from harness.qemu.pci import map_memory
from harness.qemu.virtio_driver import can_drive
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, resting, writing_guest
from tests_functional.lib.driven import require_driven
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from tests_functional.ram_blocks.judge import judge_kinds, judge_protected, judge_saved
from tests_functional.ram_blocks.kinds import KNOWN_KINDS, KnownKind, Writer
from tests_functional.ram_blocks.machines import RAM_MACHINES
from tests_functional.ram_blocks.writers import (
    Target,
    find_targets,
    unreached_kinds,
    unwritten_kinds,
    write_words,
    written,
)
from validators.verdict import CheckResult

_STALLS = "QEMU's debugger stops the vCPUs while it writes, and waits for protected pages."
# Behind RAM, in the hole of both machine types with PCI configuration ports (docs/bare-guests.md).
_PCI_MEMORY = 0xE0000000
# What the words are, in hexadecimal: of before T0 (b4) or of after it (af), and the number of the snapshot.
_BEFORE, _AFTER = 0x50B40000, 0x50AF0000
# That much of the main RAM, which QEMU saves first, and all RAM behind it must be left to save.
_LEAST_OF_MAIN = 8 * MIB


def ram_blocks(name: str, table: tuple[KnownKind, ...] = KNOWN_KINDS) -> Callable[[Run], Outcome]:
    """Return the scenario for one of RAM_MACHINES, judged by a table of kinds."""
    return lambda run: _with(run, name, table)


def _with(run: Run, name: str, table: tuple[KnownKind, ...]) -> Outcome:
    begun = time.monotonic()
    chosen, image = RAM_MACHINES[name], run.stack.image
    drives = can_drive(image.architecture, run.stack.machine)
    if chosen.devices:
        require_driven(run)
    if not image.bare:
        raise NotApplicable(
            f"This test writes to RAM of a bare guest, and the guest '{image.name}' is not bare."
        )
    files = run.folder / "shared"
    files.mkdir()
    stack, lacking = chosen.stack(run.stack, files)
    if lacking:
        run.say(f"This QEMU has no {', '.join(lacking)}; their RAM is not looked at.")
    run = replace(run, stack=stack)
    with writing_guest(run) as source:
        machine = source.guest.machine
        if drives:
            map_memory(machine, _PCI_MEMORY)
        found = find_ram(machine)
        if unreached := unreached_kinds(found):
            raise SetupBroken(
                f"No RAM of the kind '{unreached[0]}' has an address at which it can be written, so this run "
                "would prove nothing of it."
            )
        checks = [judge_kinds(found, table), judge_saved(found)]
        cycles: list[Cycle] = []
        for number, writer in enumerate(Writer):
            targets = find_targets(found, writer)
            # In the first one the agent at least writes, to the main RAM.
            if targets or not cycles:
                cycle = _Written(run, source, found, writer, targets, number).judge(() if cycles else checks)
                cycles.append(cycle)
        machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun, compare_stuns=False)


@dataclass
class _Written:
    """A snapshot during which one writer writes."""

    run: Run
    source: Source
    found: tuple[FoundRam, ...]
    writer: Writer
    targets: tuple[Target, ...]
    number: int
    protected: dict[FoundRam, bool | None] = field(default_factory=dict)

    def judge(self, further: list[CheckResult] | tuple[()]) -> Cycle:
        run, machine = self.run, self.source.guest.machine
        label = f"{self.number + 1:02d}-{self.writer.value}"
        folder = run.folder / label
        folder.mkdir(parents=True)
        write_words(machine, self.writer, self.targets, _BEFORE | self.number)
        names = ", ".join(target.ram.name for target in self.targets) or "only the main RAM"
        run.say(f"{label}: saving ({Flow.STOP_MIGRATE_CONT.value}); RAM written: {names}.")
        limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
        snapshot = take(
            Flow.STOP_MIGRATE_CONT,
            self.source.guest,
            self.source.counters,
            folder,
            limit,
            Acts(saving=self._write),
        )
        checks = [
            *further,
            judge_protected(self.protected),
            *judge_source(self.source.guest, self.source.before),
        ]
        with resting(run.stack, machine, checks):
            return judge_cycle(run, self.source, snapshot, label, checks, stalls_by_test=_STALLS)

    def _write(self) -> None:
        """Write after T0, and see that it was early enough, and what is protected.

        Raises:
            SetupBroken: a kind was not written, or RAM was saved already, so this proves nothing.
            SubjectFailed: the save has failed.
        """
        machine = self.source.guest.machine
        mappings = host_mappings(known_pid(machine))
        self.protected = {ram: is_protected(ram, mappings) for ram in self.found}
        write_words(machine, self.writer, self.targets, _AFTER | self.number)
        done = written(machine, self.targets, _AFTER | self.number)
        if missed := unwritten_kinds(self.targets, done):
            raise SetupBroken(
                f"The {self.writer.value} wrote to no RAM of the kind '{missed[0]}', which proves nothing."
            )
        sentence = "The save was over when the last word had been written, so this run proves nothing."
        migration.require_under_way(machine, sentence)
        remaining = int(machine.query_migrate().get("ram", {}).get("remaining", 0))
        if remaining < _LEAST_OF_MAIN + bytes_behind_main(self.found):
            raise SetupBroken(
                f"Only {remaining >> 20} MiB of RAM were left to save when the last word had been written, "
                "so some may have been saved before; run less beside it."
            )
