"""What docs/findings.md claims must show where it is said to, and nowhere else."""

from tests_functional.findings.reproducers import reproduced
from tests_functional.lib.avocado_test import SnapshotTest


class Findings(SnapshotTest):
    """A finding is worth as much as the command that shows it."""

    def test_reproducer(self) -> None:
        """The issue's script, with nothing but this QEMU and a shell, says twice what the baseline says."""
        self.judge(reproduced(self.option("issue"), self.newer_qemus()))
