"""Says what every driver of a disk can do, and has requests carried out by it.

A driver is played by the host in a bare guest. All that it knows is in guest RAM and in the device, so that
the driver of a restored guest goes on from there.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.board import Board
from harness.qemu.guest_memory import GuestMemory

SECTOR_BYTES = 512
"""The unit in which requests say their place."""

_POLL_SECONDS = 0.002


@dataclass(frozen=True)
class Piece:
    """A contiguous part of guest RAM.

    Attributes:
        address: guest-physical.
        size: in bytes.
    """

    address: int
    size: int

    def cut(self, unit: int) -> list[Piece]:
        """Return it in parts, none of which crosses a multiple of `unit`."""
        parts, at, end = [], self.address, self.address + self.size
        while at < end:
            next_at = min(at - at % unit + unit, end)
            parts.append(Piece(at, next_at - at))
            at = next_at
        return parts


@dataclass(frozen=True)
class Transfer:
    """What a request does.

    Attributes:
        at: place on the disk in bytes, a multiple of SECTOR_BYTES.
        pieces: of guest RAM that have the data, in their order. Each consists of whole pages, but the first
            one may begin, and the last one end, in the middle of one (see NVM Express 1.4, 4.3).
        writes: whether it writes to the disk.
    """

    at: int
    pieces: tuple[Piece, ...]
    writes: bool = False

    @property
    def size(self) -> int:
        """Return the bytes that it transfers, a multiple of SECTOR_BYTES."""
        return sum(piece.size for piece in self.pieces)

    @property
    def address(self) -> int:
        """Return where its data are, for a driver that takes one piece.

        Raises:
            ValueError: there are several.
        """
        (piece,) = self.pieces
        return piece.address

    def cut(self, unit: int) -> list[Piece]:
        """Return its pieces in parts, none of which crosses a multiple of `unit`."""
        return [part for piece in self.pieces for part in piece.cut(unit)]

    @property
    def sector(self) -> int:
        """Return its place on the disk in sectors."""
        return self.at // SECTOR_BYTES

    @property
    def sectors(self) -> int:
        """Return its size in sectors."""
        return self.size // SECTOR_BYTES


class RequestFailed(SetupBroken):
    """A disk answers a request by an error."""

    def __init__(self, what: str, status: int) -> None:
        """Name the disk, and the status as its device gives it."""
        super().__init__(f"The guest's {what} answers a request by status {status:#x}.")
        self.answered = status


class AnsweredTwice(SetupBroken):
    """A disk answers a request that it has answered, or was not told of."""

    def __init__(self, what: str, request: int) -> None:
        """Name the disk and the request."""
        super().__init__(f"The guest's {what} answers request {request} again, or was not told of it.")


@dataclass(frozen=True)
class Answer:
    """What the disk answers.

    Attributes:
        request: number of the request, as `put` returned it.
        status: as the device gives it, 0 for success.
    """

    request: int
    status: int


class DiskDriver(Protocol):
    """A driver of one disk. Requests are numbered from 0, in the order in which it is given them.

    It is made of the board that reaches the devices of a running machine, the guest's memory, and the
    guest-physical address of pages for what the driver keeps in RAM.
    """

    @property
    def at_once(self) -> int:
        """Return how many requests the disk can have at a time."""

    def start(self) -> None:
        """Make the disk ready; raises SetupBroken where it does not get ready."""

    def resume(self, told: int) -> list[int]:
        """Go on as the driver of a restored guest, and return the requests that were not seen answered at T0.

        Args:
            told: how many of these the disk was told of before T0.
        """

    def put(self, transfer: Transfer) -> int:
        """Write a request to guest RAM, and return its number.

        Raises:
            PageProtected: a background snapshot protects a page of the driver.
        """

    def tell(self, request: int) -> None:
        """Tell the disk of requests up to this one, by nothing but its registers."""

    def answers(self) -> list[Answer]:
        """Return what the disk has answered since the last call, in its order."""


class Notes:
    """The counters of a driver, in guest RAM as those of a driver in the guest would be."""

    BYTES = 8
    """Their size in guest RAM."""

    def __init__(self, memory: GuestMemory, address: int) -> None:
        """Keep them at a guest-physical address.

        Attributes:
            given: requests that the driver was given.
            seen: answers that it has seen.
        """
        self._memory, self._address = memory, address
        self.given = self.seen = 0

    def load(self) -> list[int]:
        """Read them from guest RAM, and return the requests whose answers were not seen."""
        self.given, self.seen = struct.unpack("<II", self._memory.read(self._address, self.BYTES))
        return list(range(self.seen, self.given))

    def next(self) -> int:
        """Return the number of the next request, and note both counters; raises PageProtected."""
        self._memory.write(self._address, struct.pack("<II", self.given + 1, self.seen))
        self.given += 1
        return self.given - 1

    def latest(self, place: int, places: int) -> int:
        """Return the number of the last request in one of the driver's places, which it uses in turn."""
        last = self.given - 1
        return last - (last - place) % places


class NotedDriver:
    """What drivers of disks have in common that number their requests by `Notes`."""

    def __init__(self, board: Board, memory: GuestMemory, notes: int) -> None:
        """Drive a disk of a running machine.

        Args:
            board: reaches the machine's devices.
            memory: the guest's.
            notes: guest-physical address of Notes.BYTES for the notes.
        """
        self._machine, self._memory = board.machine, memory
        self._notes = Notes(memory, notes)

    def resume(self, _told: int) -> list[int]:
        """Go on with what guest RAM has, and return the requests that were not seen answered at T0."""
        return self._notes.load()


def carry_out(driver: DiskDriver, requests: Sequence[int], what: str, deadline: Deadline) -> None:
    """Tell a disk of requests, as many at a time as it can have, and wait until it has carried them out.

    Args:
        driver: the disk's.
        requests: their numbers, all that were put and not told.
        what: names the disk in an error.
        deadline: for all of it.

    Raises:
        DeadlineExpired: it has not in time. RequestFailed: a request failed. AnsweredTwice: one was answered
            again, or had not been told.
    """
    for first in range(0, len(requests), driver.at_once):
        some = requests[first : first + driver.at_once]
        for request in some:
            driver.tell(request)
        missing = set(some)

        def done(missing: set[int] = missing) -> bool:
            for answer in driver.answers():
                if answer.request not in missing:
                    raise AnsweredTwice(what, answer.request)
                if answer.status:
                    raise RequestFailed(what, answer.status)
                missing.remove(answer.request)
            return not missing

        deadline.wait_for(done, f"The answer of the guest's {what}", interval=_POLL_SECONDS)
