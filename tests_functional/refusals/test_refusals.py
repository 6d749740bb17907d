"""Avocado tests of refusals: QEMU refuses clearly and the guest is unharmed, or the snapshot is right."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.refusals.denied import denied
from tests_functional.refusals.each_option import Kind, refusals


class Refusals(SnapshotTest):
    """QEMU refuses clearly and the guest is unharmed, or the snapshot is right."""

    def test_capabilities(self) -> None:
        """Each migration capability of this QEMU gives a right snapshot or a clear refusal, in any order."""
        self.judge(refusals(Kind.CAPABILITIES))

    def test_parameters(self) -> None:
        """Each migration parameter with values other than the default gives the same."""
        self.judge(refusals(Kind.PARAMETERS))

    def test_denied(self) -> None:
        """Without userfaultfd QEMU refuses clearly, the guest goes on, and stop-and-save still works."""
        self.judge(denied(self.option("kind")))
