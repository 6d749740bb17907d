"""Says whether the host can play the drivers of a run's guest."""

from __future__ import annotations

from harness.errors import NotApplicable
from harness.qemu.virtio_driver import can_drive
from tests_functional.lib.run import Run


def require_driven(run: Run) -> None:
    """Check that the guest is a bare one, and that the host can drive devices of its machine type.

    Raises:
        NotApplicable: it is not, or it cannot.
    """
    image, machine = run.stack.image, run.stack.machine
    if not image.bare:
        raise NotApplicable(
            f"The host drives the devices of a bare guest here, and the guest '{image.name}' is not bare."
        )
    if not can_drive(image.architecture, machine):
        raise NotApplicable(
            f"The host drives the guest's devices through PCI's I/O ports, which '{machine}' has not."
        )
