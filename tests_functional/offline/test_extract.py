"""Avocado tests that the stream reader extracts the same RAM as QEMU restores."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.lib.save import Flow
from tests_functional.offline.elf_core import core_equals_dump
from tests_functional.offline.extraction import extracted_equals_restored


class Extraction(SnapshotTest):
    """Every byte of every extracted RAMBlock equals the RAM of a QEMU that restored the file."""

    def test_plain(self) -> None:
        """The RAM of a background snapshot is extracted as QEMU restores it."""
        self.judge(extracted_equals_restored(Flow.STOP_MIGRATE_CONT))

    def test_mapped_ram(self) -> None:
        """The RAM of a file in the mapped-ram layout is extracted as QEMU restores it."""
        self.judge(extracted_equals_restored(Flow.MAPPED_RAM))

    def test_elf_core(self) -> None:
        """An ELF core made of the file has each page where QEMU's own core has it."""
        self.judge(core_equals_dump)
