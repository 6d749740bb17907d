"""Avocado tests of all kinds of RAM that a machine has."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.ram_blocks.device_rom import device_rom
from tests_functional.ram_blocks.scenario import ram_blocks


class RamBlocks(SnapshotTest):
    """A snapshot has each RAMBlock as it was at T0; each kind with a writer is written meanwhile."""

    def test_machine(self) -> None:
        """Each kind of RAM of a machine is written while it is saved; the file has that of T0."""
        self.judge(ram_blocks(self.option("blocks")))

    def test_device_rom(self) -> None:
        """A device writes into its ROM while RAM is saved; the file has that of T0."""
        self.judge(device_rom)
