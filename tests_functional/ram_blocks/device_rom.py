"""Has a QXL display device write into its own ROM while RAM is saved; the file must have the ROM of T0.

The guest sets a mode by the device's I/O ports, and another one after T0. The device writes the mode's number
into its ROM, which drivers read it from: spice/qxl_dev.h of spice-protocol 0.14, and `qxl_set_mode()` of QEMU
10.0 hw/display/qxl.c.
"""

from __future__ import annotations

import struct
import time
from dataclasses import replace

from guest_images.qemu.builds import provision_with_module
from harness.errors import NotApplicable, SetupBroken
from harness.qemu import migration
from harness.qemu.board import has_id
from harness.qemu.io_ports import write_port
from harness.qemu.machine import Machine
from harness.qemu.pci import PciFunction, PciPlace, find_function, map_memory
from harness.qemu.probe import has_device
from harness.qemu.ram import RamBlock, ramblocks, read_block
from tests_functional.lib.build_outcome import outcome_of_cycles
from tests_functional.lib.cycle import snapshot_cycle, writing_guest
from tests_functional.lib.driven import require_driven
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow

_DEVICE, _ID, _SLOT = "qxl", (0x1B36, 0x0100), 4
_PACKAGE = "qemu-system-modules-spice"
_ROM = f"0000:00:{_SLOT:02x}.0/qxl.vrom"
# Behind RAM, in the hole of both machine types with PCI configuration ports, and unused I/O ports.
_PCI_MEMORY, _PORTS = 0xE0000000, 0xC200
# The base address register of the I/O ports, and the port that sets a mode by its number.
_PORTS_BAR, _SET_MODE = 3, 6
# The words of the ROM, of 32 bits each: a magic one, and the mode that is set.
_MAGIC, _MODE_WORD = b"QXRO", 5
_BEFORE, _AFTER = 2, 5
_LABEL = "device-rom/01-seeds"


def device_rom(run: Run) -> Outcome:
    """Set a mode, save the guest, and set another one meanwhile; the file has the ROM of T0."""
    begun = time.monotonic()
    require_driven(run)
    run = _with_device(run)
    run = run.with_arguments(("-device", f"{_DEVICE},addr={_SLOT},ram_size_mb=16,vram_size_mb=16"))
    with writing_guest(run) as source:
        machine = source.guest.machine
        map_memory(machine, _PCI_MEMORY)
        PciFunction(machine, _place(machine)).give_ports(_PORTS_BAR, _PORTS)
        rom = _find_rom(machine)
        _set_mode(machine, rom, _BEFORE)

        def set_another() -> None:
            _set_mode(machine, rom, _AFTER)
            migration.require_under_way(
                machine, "The save was over when the mode had been set, so this run proves nothing."
            )

        cycle = snapshot_cycle(run, source, Flow.STOP_MIGRATE_CONT, _LABEL, acts=Acts(saving=set_another))
        machine.quit()
    return outcome_of_cycles(run, [cycle], time.monotonic() - begun)


def _with_device(run: Run) -> Run:
    """Return the run with a QEMU that has the device, which newer releases have in a package of its own.

    Raises:
        NotApplicable: there is none.
    """
    if has_device(run.stack.executable, _DEVICE):
        return run
    run.say(f"Fetching {_PACKAGE}.")
    executable = provision_with_module(run.stack.executable, _PACKAGE, run.provisioning)
    if not has_device(executable, _DEVICE):
        raise NotApplicable(f"This QEMU has no device '{_DEVICE}', and none with '{_PACKAGE}' either.")
    return replace(run, stack=replace(run.stack, executable=executable))


def _place(machine: Machine) -> PciPlace:
    place = find_function(machine, has_id(*_ID))
    if place is None:
        raise SetupBroken("The machine has no QXL device, though QEMU was given one.")
    return place


def _find_rom(machine: Machine) -> RamBlock:
    """Return the device's ROM.

    Raises:
        SetupBroken: QEMU does not say where it is.
    """
    for block in ramblocks(machine):
        if block.idstr == _ROM and block.host_address:
            return block
    raise SetupBroken(f"QEMU does not say where it keeps the ROM '{_ROM}' of its QXL device.")


def _set_mode(machine: Machine, rom: RamBlock, number: int) -> None:
    """Set a mode, and see that the device has written it into its ROM.

    Raises:
        SetupBroken: it has not, so that a snapshot would prove nothing.
    """
    write_port(machine, _PORTS + _SET_MODE, 1, number)
    found = mode_in(b"".join(read_block(machine, rom)))
    if found != number:
        raise SetupBroken(f"The QXL device was told to set mode {number}, and its ROM says {found}.")


def mode_in(rom: bytes) -> int:
    """Return the mode that a ROM names; raises SetupBroken where it is no ROM of a QXL device."""
    if not rom.startswith(_MAGIC):
        raise SetupBroken(f"The ROM of the QXL device begins with {rom[:4]!r}, and not with {_MAGIC!r}.")
    return int(struct.unpack_from("<I", rom, 4 * _MODE_WORD)[0])
