"""Avocado tests of repeated snapshots: in a row, of restored guests, and together with a disk."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.repetition.generations import generations
from tests_functional.repetition.succession import back_to_back
from tests_functional.repetition.with_disk import with_disk


class Repetition(SnapshotTest):
    """Each of several snapshots is right and leaves nothing behind."""

    def test_at_once(self) -> None:
        """A save may start as soon as QEMU reports the one before as completed."""
        self.judge(back_to_back)

    def test_generations(self) -> None:
        """A restored guest can be snapshotted like a booted one, five generations deep."""
        self.judge(generations)

    def test_with_disk(self) -> None:
        """Memory and disk of the same T0 go on together, and a newer or older disk is detected."""
        self.judge(with_disk)
