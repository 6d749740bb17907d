"""Avocado test that a snapshot is the guest at T0 while a device or the guest's kernel writes to RAM."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.snapshot.disturbances import disturbed


class Disturbances(SnapshotTest):
    """Devices, kernel and balloon write while RAM is saved."""

    def test_disturbance(self) -> None:
        """Snapshots stopped at T0 and live are right while a disturbance writes to guest RAM."""
        self.judge(disturbed(self.option("disturbance")))
