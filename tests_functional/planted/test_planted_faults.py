"""Each live planted fault must be caught, and its cause named."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.planted.planted import planted


class PlantedFaults(SnapshotTest):
    """A QEMU that breaks the promise must turn a run red."""

    def test_fault(self) -> None:
        """The fault named by the parameter `fault` is seen, and called what it is."""
        self.judge(planted(self.option("fault")))
