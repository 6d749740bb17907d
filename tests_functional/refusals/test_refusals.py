"""Whatever QEMU lets a user combine with a background snapshot must give a right one."""

from tests_functional.lib.avocado_test import SnapshotTest
from tests_functional.refusals.denied import denied
from tests_functional.refusals.refusals import Kind, refusals


class Refusals(SnapshotTest):
    """Refused with a clear error and the guest unharmed, or accepted and proven right."""

    def test_capabilities(self) -> None:
        """Every migration capability of this QEMU's schema, in every order of setting the two."""
        self.judge(refusals(Kind.CAPABILITIES))

    def test_parameters(self) -> None:
        """Every migration parameter of this QEMU's schema, with values other than the default."""
        self.judge(refusals(Kind.PARAMETERS))

    def test_denied(self) -> None:
        """Without userfaultfd, the refusal is clear, and nothing but the background snapshot is lost."""
        self.judge(denied(self.option("kind")))
