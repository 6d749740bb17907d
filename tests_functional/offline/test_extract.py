"""RAM as the stream reader extracts it is RAM as QEMU itself restores it."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.lib.save import Flow
from tests_functional.offline.extraction import extracted_equals_restored


class Extraction(SnapshotTest):
    """Every byte of every RAMBlock that is extracted equals what a QEMU holds that restored the file."""

    def test_plain(self) -> None:
        """Of a background snapshot."""
        self.judge(extracted_equals_restored(Flow.STOP_MIGRATE_CONT))

    def test_mapped_ram(self) -> None:
        """Of a file in the mapped-ram layout."""
        self.judge(extracted_equals_restored(Flow.MAPPED_RAM))
