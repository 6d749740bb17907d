"""Each live planted fault must be caught, and its cause named."""

from tests_functional.base import SnapshotTest
from tests_functional.scenarios.planted import planted_drop_protection


class PlantedFaults(SnapshotTest):
    """A QEMU that breaks the promise must turn a run red."""

    def test_drop_protection(self) -> None:
        """Write protection that silently fails for a part of RAM shows as pages from after T0."""
        self.judge(planted_drop_protection)
