"""Avocado tests of what is done to a guest and its QEMU while RAM is saved."""

from tests_functional.during_save.afterwards import done_afterwards
from tests_functional.during_save.scenario import thing_done
from tests_functional.lib.avocado_test import SnapshotTest


class DuringSave(SnapshotTest):
    """While RAM is saved something is done; the snapshot is that of T0, or refused, failed or cancelled."""

    def test_thing(self) -> None:
        """A thing is done while RAM is saved; the file is of T0, and the guest and QEMU live on."""
        self.judge(thing_done(self.option("thing")))

    def test_afterwards(self) -> None:
        """What users do after a snapshot, with the capability left on or off again, is right as well."""
        self.judge(done_afterwards(self.option("thing")))
