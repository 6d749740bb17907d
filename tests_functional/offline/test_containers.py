"""Avocado test that a stream is judged alike in each container."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.offline.containers import every_container


class Containers(SnapshotTest):
    """Files that people have: internal snapshots, save images, volumes, compressed streams."""

    def test_every_container(self) -> None:
        """A guest that QEMU has saved is judged right, with the same pages, in each container."""
        self.judge(every_container)
