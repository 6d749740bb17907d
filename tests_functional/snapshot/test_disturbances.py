"""Whoever writes to guest RAM meanwhile, the snapshot is the guest at T0."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.snapshot.disturbances import disturbed


class Disturbances(SnapshotTest):
    """Devices, kernel and balloon write while RAM is saved."""

    def test_disturbance(self) -> None:
        """Snapshots stopped at T0 and live, with one disturbance going on all the time."""
        self.judge(disturbed(self.option("disturbance")))
