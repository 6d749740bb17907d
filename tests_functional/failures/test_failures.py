"""Whatever breaks a snapshot, the guest goes on, the user is told, and the next snapshot is right."""

from tests_functional.failures.cases import CANCEL, DESCRIPTORS, SINKS
from tests_functional.failures.kill import killed
from tests_functional.failures.scenario import call_failures, failures
from tests_functional.lib.avocado_test import SnapshotTest


class Failures(SnapshotTest):
    """A failed snapshot costs no more than itself."""

    def test_sinks(self) -> None:
        """A sink that closes, is full, is slow, stalls, resets or reports failure harms no guest."""
        self.judge(failures(SINKS))

    def test_cancel(self) -> None:
        """migrate_cancel ends a snapshot at any point, whatever the sink does."""
        self.judge(failures(CANCEL))

    def test_descriptors(self) -> None:
        """A QEMU that runs out of file descriptors at any step says so and keeps its guest."""
        self.judge(failures(DESCRIPTORS))

    def test_calls(self) -> None:
        """A userfaultfd call that fails, whichever and however, costs a snapshot and not a guest."""
        self.judge(call_failures)

    def test_kill(self) -> None:
        """A QEMU killed while it saves leaves nothing behind, and its file is not taken for whole."""
        self.judge(killed)
