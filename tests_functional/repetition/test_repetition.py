"""What holds for one snapshot must hold for the next one, however soon and of whatever guest."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.repetition.generations import generations
from tests_functional.repetition.succession import two_at_once
from tests_functional.repetition.with_disk import with_disk


class Repetition(SnapshotTest):
    """Snapshot after snapshot, each is right and leaves no trace."""

    def test_at_once(self) -> None:
        """A save may begin as soon as QEMU says that the one before has completed."""
        self.judge(two_at_once)

    def test_generations(self) -> None:
        """A restored guest can be snapshotted as well as the first one, five generations deep."""
        self.judge(generations)

    def test_with_disk(self) -> None:
        """Memory and disk snapshotted at the same T0 belong together, and no others do."""
        self.judge(with_disk)
