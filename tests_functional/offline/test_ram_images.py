"""Avocado test that guest RAM without a stream is judged by the order of the agent's writes."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.offline.ram_images import ram_images


class RamImages(SnapshotTest):
    """An ELF core and a flat image of guest RAM are judged."""

    def test_ram_images(self) -> None:
        """Images of a stopped guest pass; one that was copied while the guest ran fails for a page."""
        self.judge(ram_images)
