"""Avocado tests of every kind of guest RAM: an accepted snapshot is right, and a refusal says why."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.memory.entries_anew import entries_anew
from tests_functional.memory.host_pages import host_pages
from tests_functional.memory.kinds import memory_kind
from tests_functional.memory.merged_late import merged_while_saving
from tests_functional.memory.never_touched import never_touched
from tests_functional.memory.plugged import plugged_kind
from tests_functional.memory.virtio_mem import virtio_mem_kind


class Memory(SnapshotTest):
    """QEMU saves a kind of memory right, or refuses it clearly."""

    def test_kind(self) -> None:
        """A guest with one kind of RAM is saved right, stopped at T0 and live."""
        self.judge(memory_kind(self.option("kind")))

    def test_plugged(self) -> None:
        """A guest is saved right that gets memory after the capability was set, or during the save."""
        self.judge(plugged_kind(self.option("kind")))

    def test_virtio_mem(self) -> None:
        """A guest is saved right whose virtio-mem device is plugged in by parts."""
        self.judge(virtio_mem_kind(self.option("kind")))

    def test_never_touched(self) -> None:
        """A guest is saved right that writes to pages for the first time during the save."""
        self.judge(never_touched)

    def test_host_pages(self) -> None:
        """A guest is saved right whose RAM the host has in huge pages, in small ones, or merged."""
        self.judge(host_pages(self.option("kind")))

    def test_merged_while_saving(self) -> None:
        """A guest is saved right that writes to protected pages which the host has merged during the save."""
        self.judge(merged_while_saving)

    def test_entries_anew(self) -> None:
        """A guest is saved right while the host splits, collapses, moves or swaps its pages."""
        self.judge(entries_anew(self.option("way"), self.option("memory")))
