"""Avocado test that a snapshot of a paused or suspended guest does not change its run state."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.run_states.stopped_guests import run_state


class RunStates(SnapshotTest):
    """A snapshot of a stopped guest is right and leaves the guest stopped."""

    def test_state(self) -> None:
        """The guest's run state is the same before, after, and when restored."""
        self.judge(run_state(self.option("state")))
