"""Avocado test that each fault planted in QEMU is caught, and its cause named."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.planted.foreign_faults import planted_foreign
from tests_functional.planted.host_faults import planted_in_host
from tests_functional.planted.live_faults import planted
from tests_functional.planted.ram_faults import planted_ram
from tests_functional.planted.step_faults import planted_step


class PlantedFaults(SnapshotTest):
    """A run with a QEMU that saves wrongly must fail."""

    def test_fault(self) -> None:
        """The fault in the parameter `fault` is caught and named."""
        self.judge(planted(self.option("fault")))

    def test_in_foreign_writer(self) -> None:
        """The fault is caught in the test of a foreign writer."""
        self.judge(planted_foreign(self.option("fault")))

    def test_in_ram_blocks(self) -> None:
        """The fault is caught in the test of all kinds of RAM."""
        self.judge(planted_ram(self.option("fault")))

    def test_in_host_pages(self) -> None:
        """The fault is caught in the test of guest RAM that the parameter `kind` names."""
        self.judge(planted(self.option("fault"), self.option("kind")))

    def test_beside_ram(self) -> None:
        """The fault is caught in the test of the state beside RAM that the parameter `state` names."""
        self.judge(planted(self.option("fault"), state=self.option("state")))

    def test_in_step(self) -> None:
        """A step of a test that goes wrong on a real guest is seen by the test's check."""
        self.judge(planted_step(self.option("fault")))

    def test_in_host(self) -> None:
        """Protection that the host's kernel loses is seen by the oracle in the parameter `fault`."""
        self.judge(planted_in_host(self.option("fault")))
