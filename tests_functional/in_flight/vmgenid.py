"""Restores one file several times, and looks at the generation ID that each guest gets.

QEMU's docs/specs/vmgenid.rst (10.0): the ID is a GUID in guest RAM, whose address firmware tells QEMU through
fw_cfg. A QEMU that has loaded a file writes its own ID there, so that the guest sees that it is another one.
"""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.codes import Code
from harness.errors import NotApplicable, SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine
from harness.qemu.probe import has_device
from tests_functional.foreign_writers.fw_cfg import FwCfgDma
from tests_functional.foreign_writers.target import Target
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, resting, writing_guest
from tests_functional.lib.driven import require_driven
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.patience import patient
from tests_functional.lib.restored_checks import judge_restored
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import RESTORE_SECONDS, SMALL_SAVE_SECONDS
from validators.checks import Problem, judged
from validators.verdict import CheckResult
from validators.vmstate.pages import PageReader
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

DEVICE = "vmgenid"

_FLOWS = (Flow.STOP_AND_SAVE, Flow.STOP_MIGRATE_CONT, Flow.LIVE)
# QEMU 10.0 include/hw/acpi/vmgenid.h (files, place of the GUID in its page) and docs/specs/fw_cfg.rst.
_ADDRESS_FILE, _GUID_OFFSET = "etc/vmgenid_addr", 40
_SELECT, _WRITE = 1 << 3, 1 << 4

RESTORED_CHECK, KEPT_CHECK = "generation-id-restored", "generation-id-kept"
"""Names of the checks of the restored guests, and of the file and the source."""

FIRST = "first-"
"""What is before the name of a check of the first one of two restored guests."""

_FILE = "The file has the generation ID of T0, and the source keeps it."
_RESTORED = "Each restored guest has the generation ID of its own QEMU, which no other guest has."


@dataclass
class GuestIds:
    """The IDs that were found around one snapshot.

    Attributes:
        source: that of the source's QEMU.
        source_ram: in the source's RAM after the save.
        file: in the file.
        restored: of each restored guest, that of its QEMU and the one in its RAM.
    """

    source: uuid.UUID
    source_ram: uuid.UUID
    file: uuid.UUID
    restored: list[tuple[uuid.UUID, uuid.UUID]] = field(default_factory=list)


class GuidPage:
    """The page of guest RAM that has the ID."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._target = Target(machine)
        self.address = self._target.data

    def announce(self) -> None:
        """Do what firmware does: put the ID into RAM, and tell QEMU where."""
        dma = FwCfgDma(self._machine, self._target)
        self.put(self.of_qemu())
        selector = dma.find_file(_ADDRESS_FILE)
        value = self.address + TARGET_PAGE_BYTES
        self._target.memory.write(value, struct.pack("<Q", self.address + _GUID_OFFSET))
        request = self._target.control
        control = selector << 16 | _SELECT | _WRITE
        self._target.memory.write(request, struct.pack(">IIQ", control, 8, value))
        with patient(self._machine) as deadline:
            dma.carry_out(request, deadline)

    def put(self, guid: uuid.UUID) -> None:
        """Write an ID to guest RAM."""
        self._target.memory.write(self.address + _GUID_OFFSET, guid.bytes_le)

    def of_qemu(self) -> uuid.UUID:
        """Return the ID that QEMU says it has."""
        return uuid.UUID(self._machine.qmp.execute("query-vm-generation-id")["guid"])

    def in_ram(self) -> uuid.UUID:
        """Return the ID in guest RAM."""
        return uuid.UUID(bytes_le=self._target.memory.read(self.address + _GUID_OFFSET, 16))

    def in_file(self, path: Path) -> uuid.UUID:
        """Return the ID in a vmstate file.

        Raises:
            SetupBroken: the file does not have its page.
        """
        with open_source(path) as opened:
            index = read_index(opened)
            ram = max(index.blocks, key=lambda block: block.pages)
            page = PageReader(opened, index).page(ram, self.address // ram.page_size)
        if page is None:
            raise SetupBroken("The file does not have the page of the generation ID.")
        return uuid.UUID(bytes_le=page[_GUID_OFFSET : _GUID_OFFSET + 16])


def _leave(_page: GuidPage) -> None:
    """Plant nothing."""


@dataclass(frozen=True)
class Plant:
    """The faults that are planted around one snapshot, by default none.

    Attributes:
        before_save: called with the source's page before the save.
        after_save: called with it after the save, before it is looked at.
        after_restore: called with the page of each restored guest, before it is looked at.
        restored_guid: what the QEMUs of the restored guests are given as their ID.
    """

    before_save: Callable[[GuidPage], None] = _leave
    after_save: Callable[[GuidPage], None] = _leave
    after_restore: Callable[[GuidPage], None] = _leave
    restored_guid: str = "auto"


NO_PLANT = Plant()


def with_ids(run: Run, guid: str = "auto") -> Run:
    """Return the run with an ID for each QEMU."""
    return run.with_arguments(("-device", f"{DEVICE},guid={guid}"))


def require_ids(run: Run) -> None:
    """Check that guest and QEMU can have an ID.

    Raises:
        NotApplicable: they cannot.
    """
    require_driven(run)
    if not has_device(run.stack.executable, DEVICE):
        raise NotApplicable(f"This QEMU has no device '{DEVICE}'.")


def generation_id(run: Run) -> Outcome:
    """Save a guest that has an ID, restore each file twice, and judge all IDs."""
    begun = time.monotonic()
    require_ids(run)
    cycles = []
    with writing_guest(with_ids(run)) as source:
        GuidPage(source.guest.machine).announce()
        for number, flow in enumerate(_FLOWS, 1):
            cycles.append(id_cycle(run, source, flow, f"vmgenid/{number:02d}-{flow.label}"))
        source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun, compare_stuns=False)


def id_cycle(run: Run, source: Source, flow: Flow, label: str, plant: Plant = NO_PLANT) -> Cycle:
    """Save a guest that has an ID, restore the file twice, and judge all IDs.

    Args:
        run: the test's, without an ID.
        source: the guest.
        flow: how to save.
        label: names the cycle in results, and its folder.
        plant: what is planted.
    """
    folder = run.folder / label
    folder.mkdir(parents=True)
    run.say(f"{label}: saving ({flow.value}).")
    page = GuidPage(source.guest.machine)
    plant.before_save(page)
    limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
    snapshot = take(flow, source.guest, source.counters, folder, limit)
    plant.after_save(page)
    ids = GuestIds(page.of_qemu(), page.in_ram(), page.in_file(snapshot.path))
    checks = [*judge_source(source.guest, source.before), judge_kept(ids)]

    def look(guest: Guest) -> list[CheckResult]:
        found = GuidPage(guest.machine)
        plant.after_restore(found)
        ids.restored.append((found.of_qemu(), found.in_ram()))
        return [judge_restored_ids(ids)]

    restoring = with_ids(run, plant.restored_guid)
    with resting(run.stack, source.guest.machine, checks):
        limit = run.deadline.at_most(RESTORE_SECONDS)
        first = judge_restored(
            restoring.stack, snapshot, source.status, None, folder / "restored-first", limit, look
        )
        # Its memory and clock are judged in the second one.
        kept = [check for check in first if check.name in (RESTORED_CHECK, "restore")]
        checks += [replace(check, name=f"{FIRST}{check.name}") for check in kept]
        return judge_cycle(restoring, source, snapshot, label, checks, look)


def judge_kept(ids: GuestIds) -> CheckResult:
    """Check the ID in the file and in the source's RAM after the save."""
    problems = []
    if ids.file != ids.source:
        sentence = f"The file has the generation ID {ids.file}, and at T0 it was {ids.source}."
        problems.append(Problem(Code.VMGENID_FILE, sentence))
    if ids.source_ram != ids.source:
        sentence = f"The source has the generation ID {ids.source_ram} after the save, before {ids.source}."
        problems.append(Problem(Code.VMGENID_SOURCE, sentence))
    return judged(KEPT_CHECK, _FILE, problems)


def judge_restored_ids(ids: GuestIds) -> CheckResult:
    """Check the IDs of the guests that were restored so far."""
    problems = []
    for number, (of_qemu, in_ram) in enumerate(ids.restored, 1):
        if in_ram != of_qemu:
            sentence = f"Restored guest {number} has the generation ID {in_ram}, its QEMU {of_qemu}."
            problems.append(Problem(Code.VMGENID_STALE, sentence))
    seen: Sequence[uuid.UUID] = [ids.source, *(in_ram for _, in_ram in ids.restored)]
    if len(set(seen)) != len(seen):
        sentence = f"Two of {len(seen)} guests have the same generation ID."
        problems.append(Problem(Code.VMGENID_SAME, sentence))
    return judged(RESTORED_CHECK, _RESTORED, problems, {"guests": len(ids.restored)})
