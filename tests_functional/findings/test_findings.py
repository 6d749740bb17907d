"""Avocado test that the reproducer of a known issue shows its defect where docs/findings.md says so."""

from tests_functional.findings.reproducers import reproduced
from tests_functional.lib.avocado_test import SnapshotTest


class Findings(SnapshotTest):
    """Reproducers agree with the baseline of known issues."""

    def test_reproducer(self) -> None:
        """The reproducer of the issue in the parameter `issue` shows twice what the baseline says."""
        self.judge(reproduced(self.option("issue"), self.newer_qemus()))
