"""Says what a driver of a USB controller can do for one device with one bulk endpoint in each direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

IN, OUT = 3, 4
"""The bulk endpoints of a disk: twice their number, one more for that from the device (xHCI 1.2, 4.5.1)."""

SET_CONFIGURATION = bytes((0x00, 9, 1, 0, 0, 0, 0, 0))
"""The request that makes a device use its first configuration (USB 2.0, 9.4.7)."""


class UsbController(Protocol):
    """A driver of a controller; all that it knows is in guest RAM and in the controller."""

    @property
    def pages(self) -> int:
        """Return how many pages of guest RAM it keeps its structures in."""

    def start(self) -> None:
        """Start the controller, and configure the device.

        Raises:
            SetupBroken: one of them does not answer as it must.
        """

    def resume(self) -> None:
        """Go on as the driver of a restored guest."""

    def add(self, endpoint: int, transfers: Sequence[tuple[int, int]]) -> None:
        """Give an endpoint transfers, of which the end of the last one is reported.

        Args:
            endpoint: IN or OUT.
            transfers: guest-physical address and bytes of each.

        Raises:
            PageProtected: a background snapshot protects the controller's structures.
        """

    def ring(self, endpoint: int) -> None:
        """Have the controller carry out the transfers of an endpoint."""

    def reported(self, endpoint: int) -> bool:
        """Return whether the last transfer of an endpoint has ended.

        Raises:
            SetupBroken: one has failed.
        """
