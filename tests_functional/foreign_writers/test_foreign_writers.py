"""Avocado tests of writers of guest RAM that are no vCPUs."""

from tests_functional.foreign_writers.firmware_tables import firmware_tables
from tests_functional.foreign_writers.mounted_folder import mounted_folder
from tests_functional.foreign_writers.scenario import foreign_writer
from tests_functional.lib.avocado_test import SnapshotTest


class ForeignWriters(SnapshotTest):
    """A snapshot has nothing that a foreign writer wrote after T0."""

    def test_writer(self) -> None:
        """A foreign writer writes while RAM is saved; the file and the restored guest are of T0."""
        self.judge(foreign_writer(self.option("writer")))

    def test_mounted_folder(self) -> None:
        """A save is refused while the guest has a 9p folder mounted; before and afterwards it is right."""
        self.judge(mounted_folder)

    def test_firmware_tables(self) -> None:
        """QEMU makes its ACPI tables anew while RAM is saved; the file has those of T0."""
        self.judge(firmware_tables)
