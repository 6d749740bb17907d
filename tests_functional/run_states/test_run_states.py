"""Avocado tests that a snapshot of a guest that stands still does not change its run state."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.run_states.never_started import never_started
from tests_functional.run_states.stopped_guests import run_state
from tests_functional.run_states.woken import asleep_control, woken_while_saved


class RunStates(SnapshotTest):
    """A snapshot of a stopped guest is right and leaves the guest stopped."""

    def test_state(self) -> None:
        """The guest's run state is the same before, after, and when restored."""
        self.judge(run_state(self.option("state")))

    def test_never_started(self) -> None:
        """A guest that has not been started is not started by a snapshot, and starts when restored."""
        self.judge(never_started)

    def test_woken(self) -> None:
        """A guest that sleeps is woken up while its RAM is saved; the file has it asleep, as at T0."""
        self.judge(woken_while_saved)

    def test_asleep_control(self) -> None:
        """An ordinary save of a sleeping guest has it asleep, as at T0; restored it can be woken up."""
        self.judge(asleep_control)
