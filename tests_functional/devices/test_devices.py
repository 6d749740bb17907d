"""Avocado tests that put every device of a QEMU into a guest that is saved and restored."""

from tests_functional.devices.planted import planted_faults
from tests_functional.devices.sweep import sweep
from tests_functional.lib.avocado_test import SnapshotTest


class Devices(SnapshotTest):
    """A background snapshot keeps the state of every device."""

    def test_sweep(self) -> None:
        """Each device is restored as it was saved, and its guest goes on."""
        self.judge(sweep(self.option("devices")))

    def test_planted(self) -> None:
        """The sweep is red with each fault that is planted at the ends of saves and restores."""
        self.judge(planted_faults)
