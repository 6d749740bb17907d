"""Avocado tests of what a guest's devices have in flight at T0."""

from tests_functional.in_flight.planted import planted_faults
from tests_functional.in_flight.planted_ids import planted_ids
from tests_functional.in_flight.scenario import in_flight
from tests_functional.in_flight.vmgenid import generation_id
from tests_functional.lib.avocado_test import SnapshotTest


class InFlight(SnapshotTest):
    """What a device has in flight at T0 arrives once, in order, in the source and in the restored guest."""

    def test_stream(self) -> None:
        """Items that are in flight at T0 arrive in both guests; those of after T0 in the source alone."""
        self.judge(in_flight(self.option("stream")))

    def test_generation_id(self) -> None:
        """The file has the generation ID of T0, and each guest restored from it gets one of its own."""
        self.judge(generation_id)

    def test_planted_faults(self) -> None:
        """Items that are lost, doubled, out of order or of after T0, and a device given up, are seen."""
        self.judge(planted_faults(self.option("planted")))

    def test_planted_ids(self) -> None:
        """Generation IDs that are wrong in the file, the source or a restored guest are seen."""
        self.judge(planted_ids)
