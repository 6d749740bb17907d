"""A snapshot changes nothing of whether the guest runs."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.run_states.run_states import run_state


class RunStates(SnapshotTest):
    """Guests that stand still are saved as they are and left as they were."""

    def test_state(self) -> None:
        """The guest's run state is the same before, after, and when restored."""
        self.judge(run_state(self.option("state")))
