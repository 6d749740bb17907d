"""Avocado test that newer QEMUs restore the snapshot of an older one."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.versions.across_versions import restored_by_newer


class Versions(SnapshotTest):
    """A snapshot depends on the machine type, and not on the version of QEMU."""

    def test_restored_by_newer(self) -> None:
        """Every newer QEMU of the run restores the snapshot to the guest at T0."""
        self.judge(restored_by_newer(self.newer_qemus()))
