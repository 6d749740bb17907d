"""Whatever guest RAM is made of, an accepted snapshot is right and a refused one says why."""

from tests_functional.base import SnapshotTest
from tests_functional.scenarios.memory_kinds import memory_kind


class Memory(SnapshotTest):
    """What QEMU does not refuse for a kind of memory, it must do right."""

    def test_kind(self) -> None:
        """Snapshots of a guest with one kind of RAM, stopped at T0 and live."""
        self.judge(memory_kind(self.option("kind")))
