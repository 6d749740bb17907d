"""What every stream of a guest's device can do: have something in flight at T0, and deliver it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.deadline import Deadline
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.pipes import Pipes


@dataclass(frozen=True)
class FarEnd:
    """What one QEMU has at the other end of the guest's device; source and restored guest have one each.

    Attributes:
        folder: for its sockets, with a short path.
        pipes: of a character device.
        peer: of a network card.
        board: UNIX socket by which device registers are reached.
        disk: image of the disk.
        restored: whether it is that of a restored guest.
    """

    folder: Path
    pipes: Pipes
    peer: socket.socket
    board: Path
    disk: Path
    restored: bool


@dataclass(frozen=True)
class InFlight:
    """What a stream has in flight at T0.

    Attributes:
        restored: numbers of the items that the restored guest has to deliver; the source delivers all.
        position: what the guest's driver knows of how far it is, for `resume`.
    """

    restored: Sequence[int]
    position: int = 0


class Stream(Protocol):
    """A stream of one QEMU; that of a restored guest is made anew, and not `start`ed but `resume`d."""

    def start(self) -> None:
        """Set the device up."""

    def resume(self, position: int) -> None:
        """Go on where the driver was at T0; see `InFlight`."""

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Send the items of before T0, and leave those in flight that have to be."""

    def send(self, numbers: Sequence[int], deadline: Deadline) -> None:
        """Send items after T0."""

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Let everything arrive, and return the numbers of what has arrived, in order.

        Args:
            count: how many items are expected. It is waited for them, and for more that comes soon.
            deadline: for them.
        """
