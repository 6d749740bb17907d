"""Avocado test that each fault planted in QEMU is caught, and its cause named."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.planted.live_faults import planted


class PlantedFaults(SnapshotTest):
    """A run with a QEMU that saves wrongly must fail."""

    def test_fault(self) -> None:
        """The fault in the parameter `fault` is caught and named."""
        self.judge(planted(self.option("fault")))
