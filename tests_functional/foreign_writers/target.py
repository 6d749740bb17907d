"""The pages of guest RAM that a foreign writer writes, and that no program in the guest uses."""

from __future__ import annotations

from guest_images.agent.bare_agent import free_ram_at
from harness.qemu.architectures import PC, TARGET_PAGE_BYTES, MachineType
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from tests_functional.foreign_writers.marks import Marks

PAGES = 768
"""Number of pages that a writer writes in each pass, where its device takes so many requests at once."""

CONTROL_PAGES = 16
"""Pages in front of them for what a device is told: its queue and its requests."""


class Target:
    """The pages in the RAM of one QEMU."""

    def __init__(self, machine: Machine, data_at: int = 0, kind: MachineType = PC) -> None:
        """Find the pages of a running bare guest.

        Args:
            machine: QEMU.
            data_at: guest-physical address of the first page that is written, 0 for one at the end of RAM.
            kind: its machine type, or one whose RAM begins at the same address.

        Raises:
            MachineryMissing: QEMU's process id is not known.
        """
        self.memory = GuestMemory(machine)
        free = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
        self.control = kind.ram_start + free
        """Guest-physical address of the control pages."""
        self.data = data_at or self.control + CONTROL_PAGES * TARGET_PAGE_BYTES
        """Guest-physical address of the first page that is written."""
        self.offset = self.data - kind.ram_start
        """Offset of that page in the main RAM, where it is in there."""

    def passes(self, marks: Marks, pages: int) -> list[int | None]:
        """Return the pass that each of the first pages was last written in, None for one without marks."""
        data = self.memory.read(self.data, pages * TARGET_PAGE_BYTES)
        return marks.passes(
            [data[at : at + TARGET_PAGE_BYTES] for at in range(0, len(data), TARGET_PAGE_BYTES)]
        )
