"""Avocado tests of failing saves: the guest goes on, QEMU gives a reason, the next snapshot is right."""

from tests_functional.failures.broken_saves import call_failures, failures
from tests_functional.failures.cases import CANCEL, DESCRIPTORS, SINKS
from tests_functional.failures.kill import killed
from tests_functional.lib.avocado_test import SnapshotTest


class Failures(SnapshotTest):
    """A failed save harms neither the guest nor the next snapshot."""

    def test_sinks(self) -> None:
        """A sink that closes, is full, is slow, stalls, resets or reports failure does not harm the guest."""
        self.judge(failures(SINKS))

    def test_cancel(self) -> None:
        """migrate_cancel ends a save at any point, even if the sink is slow or stalls."""
        self.judge(failures(CANCEL))

    def test_descriptors(self) -> None:
        """A QEMU that runs out of file descriptors at any step gives a reason and keeps its guest."""
        self.judge(failures(DESCRIPTORS))

    def test_calls(self) -> None:
        """Any userfaultfd call may fail with any error: the save fails or is right, and the guest goes on."""
        self.judge(call_failures)

    def test_kill(self) -> None:
        """A QEMU killed while it saves leaves nothing behind, and its file fails the offline checks."""
        self.judge(killed)
