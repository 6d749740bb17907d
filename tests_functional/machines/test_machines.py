"""Avocado test of machine types: a snapshot is right on each of them."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.machines.every_version import every_version


class Machines(SnapshotTest):
    """A snapshot is right on every machine type that a guest may have kept."""

    def test_every_version(self) -> None:
        """On each versioned machine type of QEMU a live snapshot is exactly the guest at T0."""
        self.judge(every_version)
