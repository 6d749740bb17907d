"""Avocado test that what an agent leaves behind is not taken for a wrong snapshot."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.offline.gone_agent import gone_agent


class GoneAgent(SnapshotTest):
    """A right snapshot of a guest whose agent had gone is not called wrong."""

    def test_gone(self) -> None:
        """Files of a guest whose agent ended, was killed or reset do not fail; a lost control page does."""
        self.judge(gone_agent)
