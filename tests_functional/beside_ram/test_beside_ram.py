"""Avocado tests of state that a machine keeps beside RAM."""

from tests_functional.beside_ram.bitmaps import dirty_bitmaps
from tests_functional.beside_ram.block_capability import block_capability
from tests_functional.beside_ram.external import external_tpm
from tests_functional.beside_ram.scenario import state_beside_ram
from tests_functional.beside_ram.sections import iterable_sections
from tests_functional.lib.avocado_test import SnapshotTest


class BesideRam(SnapshotTest):
    """A snapshot has state beside RAM as it was at T0."""

    def test_state(self) -> None:
        """The guest changes state beside RAM while RAM is saved; the restored guest has that of T0."""
        self.judge(state_beside_ram(self.option("state")))

    def test_dirty_bitmaps(self) -> None:
        """QEMU refuses to save dirty bitmaps in the background, and a snapshot does not disturb them."""
        self.judge(dirty_bitmaps)

    def test_block_capability(self) -> None:
        """QEMU refuses to save disks in the background, or has them as they were at T0."""
        self.judge(block_capability)

    def test_external_tpm(self) -> None:
        """A TPM changes its state while RAM is saved; the restored guest's has that of T0."""
        self.judge(external_tpm)

    def test_sections(self) -> None:
        """Each iterable section in a file of each machine type is of a handler that a test covers."""
        self.judge(iterable_sections)
