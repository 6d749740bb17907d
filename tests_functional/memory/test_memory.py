"""Whatever guest RAM is made of, an accepted snapshot is right and a refused one says why."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.memory.host_pages import host_pages
from tests_functional.memory.kinds import memory_kind
from tests_functional.memory.merged_late import merged_while_saving
from tests_functional.memory.never_touched import never_touched
from tests_functional.memory.plugged import plugged_kind
from tests_functional.memory.virtio_mem import virtio_mem_kind


class Memory(SnapshotTest):
    """What QEMU does not refuse for a kind of memory, it must do right."""

    def test_kind(self) -> None:
        """Snapshots of a guest with one kind of RAM, stopped at T0 and live."""
        self.judge(memory_kind(self.option("kind")))

    def test_plugged(self) -> None:
        """Snapshots of a guest that got memory after the capability was set, or gets it during the save."""
        self.judge(plugged_kind(self.option("kind")))

    def test_virtio_mem(self) -> None:
        """Snapshots of a guest with a virtio-mem device that is plugged in by parts."""
        self.judge(virtio_mem_kind(self.option("kind")))

    def test_never_touched(self) -> None:
        """A snapshot during which the guest writes pages for the first time."""
        self.judge(never_touched)

    def test_host_pages(self) -> None:
        """Snapshots of a guest whose RAM the host has in huge pages, in small ones, or merged."""
        self.judge(host_pages(self.option("kind")))

    def test_merged_while_saving(self) -> None:
        """A snapshot during which the host merges pages that are protected, and the guest writes to them."""
        self.judge(merged_while_saving)
