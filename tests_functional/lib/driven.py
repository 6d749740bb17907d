"""Says whether the host can play the drivers of a run's guest."""

from __future__ import annotations

from harness.errors import NotApplicable
from harness.qemu.virtio_driver import can_drive
from tests_functional.lib.run import Run


def require_driven(run: Run) -> None:
    """Check that there are pages that nobody uses, and that the host can drive a device.

    Raises:
        NotApplicable: there are none, or it cannot.
    """
    image, machine = run.stack.image, run.stack.machine
    if not image.bare or not can_drive(image.architecture, machine):
        raise NotApplicable(
            f"The host drives the devices of a bare guest here, which it cannot on machine type '{machine}'."
        )
