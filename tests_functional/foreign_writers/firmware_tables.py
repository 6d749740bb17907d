"""Has QEMU make its ACPI tables anew while RAM is saved; they lie in RAMBlocks that no guest writes.

QEMU makes the tables when it starts, and once more when firmware first reads them after a reset
(hw/i386/acpi-build.c, acpi_build_update(), 10.0). A device that was plugged in between changes them. The same
happens where a guest is restarted while it is saved.
"""

from __future__ import annotations

import time
from dataclasses import replace

from harness.errors import NotApplicable, SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused
from harness.qemu.ram import RamBlock, ramblocks, read_block
from tests_functional.foreign_writers.fw_cfg import FwCfgDma, read_request
from tests_functional.foreign_writers.target import CONTROL_PAGES, Target
from tests_functional.lib.build_outcome import outcome_of_cycles
from tests_functional.lib.cycle import snapshot_cycle, writing_guest
from tests_functional.lib.driven import require_driven
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow
from validators.oracles.o6_host.host_state import capture_host_state

_TABLES = "etc/acpi/tables"
_PLUGGED = {"driver": "virtio-rng-pci", "id": "plugged", "addr": "9"}
_LABEL = "firmware-tables/01-seeds"
_ACT_SECONDS = 60.0


def firmware_tables(run: Run) -> Outcome:
    """Plug a device in, save the guest, and have the tables read meanwhile; the file has those of T0."""
    begun = time.monotonic()
    require_driven(run)
    with writing_guest(run) as booted:
        machine = booted.guest.machine
        tables = _find_tables(machine)
        _plug(machine)
        target = Target(machine)
        dma, request = FwCfgDma(machine, target), target.control + CONTROL_PAGES // 2 * TARGET_PAGE_BYTES
        target.memory.write(request, read_request(dma.find_file(_TABLES), TARGET_PAGE_BYTES, target.data))
        source = replace(booted, before=replace(booted.before, host=capture_host_state(machine)))

        def read_tables() -> None:
            before = b"".join(read_block(machine, tables))
            dma.carry_out(request, run.deadline.at_most(_ACT_SECONDS))
            if b"".join(read_block(machine, tables)) == before:
                raise SetupBroken(
                    "QEMU did not make its ACPI tables anew when they were read, so this proves nothing."
                )

        device = ",".join([_PLUGGED["driver"], *(f"{key}={_PLUGGED[key]}" for key in ("id", "addr"))])
        cycle = snapshot_cycle(
            run,
            source,
            Flow.STOP_MIGRATE_CONT,
            _LABEL,
            acts=Acts(saving=read_tables),
            restored_arguments=("-device", device),
        )
        machine.quit()
    return outcome_of_cycles(run, [cycle], time.monotonic() - begun)


def _plug(machine: Machine) -> None:
    """Plug the device in.

    Raises:
        NotApplicable: the machine takes none while it runs.
    """
    try:
        machine.qmp.execute("device_add", _PLUGGED)
    except CommandRefused as refusal:
        raise NotApplicable(f"No device can be plugged in here; QEMU says: {refusal.reason}.") from refusal


def _find_tables(machine: Machine) -> RamBlock:
    """Return the RAMBlock of the tables, which golden images have.

    Raises:
        NotApplicable: QEMU does not say where it is.
    """
    for block in ramblocks(machine):
        if block.idstr == f"/rom@{_TABLES}" and block.host_address:
            return block
    raise NotApplicable("QEMU before 8.2 does not say where it keeps ACPI tables, so none can be copied.")
