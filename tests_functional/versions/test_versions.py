"""A snapshot must be restored by the QEMUs that come after the one that took it."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.versions.across_versions import restored_by_newer


class Versions(SnapshotTest):
    """The machine type is what a snapshot depends on, not the QEMU."""

    def test_restored_by_newer(self) -> None:
        """Every newer QEMU of the run restores the snapshot to the guest at T0."""
        self.judge(restored_by_newer(self.newer_qemus()))
