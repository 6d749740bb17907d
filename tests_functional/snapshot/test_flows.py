"""Avocado tests of the flows: each snapshot must be exactly the guest at T0."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.lib.flows import one_flow
from tests_functional.lib.save import Flow
from tests_functional.snapshot.kvm_options import kvm_option
from tests_functional.snapshot.main_job import main_job
from tests_functional.snapshot.tcg_threads import tcg_threads
from tests_functional.snapshot.timers import timers_go_on


class SnapshotFlows(SnapshotTest):
    """A snapshot by any flow is exactly the guest at T0, and leaves the source unharmed."""

    def test_main_job(self) -> None:
        """Live and golden snapshots are right, and stun far less than stop-and-save does."""
        self.judge(main_job)

    def test_live(self) -> None:
        """A snapshot of a running guest restores to the guest at T0 while its writers go on."""
        self.judge(one_flow(Flow.LIVE))

    def test_seeds(self) -> None:
        """Stop, migrate, go on: every page in the file equals RAM as it was while stopped."""
        self.judge(one_flow(Flow.STOP_MIGRATE_CONT))

    def test_seeds_file(self) -> None:
        """The same holds where QEMU writes the file by itself."""
        self.judge(one_flow(Flow.STOP_MIGRATE_CONT_FILE))

    def test_tcg_threads(self) -> None:
        """The same holds whether TCG runs all vCPUs in one thread or each in its own."""
        self.judge(tcg_threads(self.option("threads")))

    def test_kvm_option(self) -> None:
        """The same holds with an option of KVM."""
        self.judge(kvm_option(self.option("option")))

    def test_stop_and_save(self) -> None:
        """The control: without the capability the guest is stopped for the whole save."""
        self.judge(one_flow(Flow.STOP_AND_SAVE))

    def test_timers(self) -> None:
        """A background snapshot stops the guest at T0 and not a second time."""
        self.judge(timers_go_on)
