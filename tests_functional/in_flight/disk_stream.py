"""Has requests of a disk in flight, by the driver of any bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from guest_images.agent.bare_agent import free_ram_at
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import PC, TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from tests_functional.in_flight import disks
from tests_functional.in_flight.device_queue import taken_chains
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.stream import FarEnd, InFlight
from tests_functional.lib.drivers.disk import Answer, DiskDriver, Transfer, carry_out

_CONTROL_PAGES = 16
# What the guest's RAM has where no data were transferred.
_FILLER = b"\xa5"
# No item's number, nor what stands for an item that was not done.
_UNASKED = -1 << 16
_POLL_SECONDS = 0.01
# How often nothing must arrive until nothing more is expected.
_QUIET_POLLS = 20
# A device that begins later does so in QEMU's main loop, which carries out a command after that.
_TURNS = 3


@dataclass(frozen=True)
class DiskBus:
    """How a disk is attached.

    Attributes:
        device: name of the device that a QEMU must have.
        devices: options of the devices, of which the last one is the disk.
        driver: makes the driver.
        owner: QOM path of the virtio device that has its queue, "" for another bus.
        queue: number of that queue.
        put_late: whether a request that is in guest RAM is one that the disk was told of.
    """

    device: str
    devices: tuple[str, ...]
    driver: Callable[[Board, GuestMemory, int], DiskDriver]
    owner: str = ""
    queue: int = 0
    put_late: bool = False


def data_at(machine: Machine) -> int:
    """Return the guest-physical address of the rooms for data, one behind the other."""
    base = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
    return base + _CONTROL_PAGES * TARGET_PAGE_BYTES


class DiskStream:
    """The stream; item n is request n of the plan, with a room in guest RAM that no other one uses then."""

    def __init__(self, machine: Machine, far: FarEnd, bus: DiskBus, plan: disks.Plan) -> None:
        """Find the disk of a running machine.

        Raises:
            SetupBroken: the machine has none.
        """
        self._machine, self._far, self._bus, self._plan = machine, far, bus, plan
        self._memory = GuestMemory(machine)
        self._data = data_at(machine)
        control = self._data - _CONTROL_PAGES * TARGET_PAGE_BYTES
        self._driver = bus.driver(Board(machine, PC, far.board), self._memory, control)
        # Items by the number of their request; those that were not told of; and requests that the disk has.
        self._items: dict[int, int] = {}
        self._waiting: list[int] = []
        self._told: set[int] = set()
        self._known: set[int] = set()

    def start(self) -> None:
        """Set the disk up."""
        self._driver.start()

    def resume(self, position: int) -> None:
        """Go on with what was in flight, from the item with the number `position` on."""
        items = range(position, position + self._plan.counts.in_flight)
        self._items = dict(zip(self._driver.resume(self._plan.told), items, strict=False))
        self._told = set(list(self._items)[: self._plan.told])
        self._waiting = list(items[self._plan.told :])
        self._known = {item for item in items if not self._plan.done_before_t0(item)}

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Have the disk carry out some requests, and give it more than the throttle lets pass."""
        flight, plan = numbers.in_flight, self._plan
        self._known.update(numbers.before)
        disks.open_throttle(self._machine)
        self._carry_out(numbers.consumed[: -disks.PASSING], deadline)
        if plan.serial:
            disks.close_throttle(self._machine)
            self._carry_out(numbers.consumed[-disks.PASSING :], deadline)
        else:
            self._carry_out(numbers.consumed[-disks.PASSING :], deadline)
            before = sum(disks.operations(self._machine))
            disks.close_throttle(self._machine)
            self._tell(flight[: disks.PASSING])
            deadline.wait_for(
                lambda: sum(disks.operations(self._machine)) == before + disks.PASSING,
                "The end of the requests in front of those that wait",
            )
        self._keep_back(flight[0 if plan.serial else disks.PASSING : plan.told], deadline)
        self._waiting = list(flight[plan.told :])
        if not self._bus.put_late:
            for number in self._waiting:
                self._put(number)
        return InFlight(flight, flight.start)

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Give the driver more requests."""
        self._known.update(numbers)
        self._waiting += numbers

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Have the disk carry out all requests, and return those that it has carried out rightly."""
        disks.open_throttle(self._machine)
        found: list[int] = []
        quiet = 0
        while quiet < _QUIET_POLLS:
            while self._waiting and len(self._told) < self._driver.at_once:
                self._tell([self._waiting.pop(0)])
            answers = self._driver.answers()
            found += [number for answer in answers for number in self._judged(answer)]
            enough = len(found) >= count or deadline.expired
            quiet = quiet + 1 if enough and not answers else 0
            Deadline(_POLL_SECONDS).nap(_POLL_SECONDS)
        return found + self._strays()

    def _carry_out(self, numbers: Sequence[int], deadline: Deadline) -> None:
        for number in numbers:
            carry_out(self._driver, [self._put(number)], "disk", deadline)

    def _keep_back(self, numbers: Sequence[int], deadline: Deadline) -> None:
        """Tell the disk of requests, and check that its throttle keeps them back.

        Raises:
            SetupBroken: it does not.
        """
        before = disks.operations(self._machine)
        self._tell(numbers)
        if self._bus.owner:
            deadline.wait_for(self._has_taken, "The disk's taking of requests")
        for _ in range(_TURNS):
            self._machine.qmp.execute("query-status")
        if disks.operations(self._machine) != before:
            raise SetupBroken("The disk carries out requests that its throttle should keep back.")

    def _has_taken(self) -> bool:
        """Return whether the virtio device has taken all requests that it was told of."""
        return taken_chains(self._machine, self._bus.owner, self._bus.queue) == self._requests % (1 << 16)

    @property
    def _requests(self) -> int:
        return 1 + max(self._items)

    def _tell(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            request = self._put(number)
            self._driver.tell(request)
            self._told.add(request)

    def _put(self, number: int) -> int:
        """Return the request of an item, which is written to guest RAM if it is not there yet."""
        for request, item in self._items.items():
            if item == number:
                return request
        transfer = self._plan.transfer(number, self._room(number))
        data = disks.content(self._plan.sectors(number), written=True) if transfer.writes else b""
        self._memory.write(self._room(number), self._filled(transfer, data))
        request = self._driver.put(transfer)
        self._items[request] = number
        return request

    def _judged(self, answer: Answer) -> list[int]:
        """Return an item's number, twice if it was done twice, and a negative one if it was not done."""
        self._told.discard(answer.request)
        number = self._items.get(answer.request)
        if number is None:
            return [_UNASKED]
        if answer.status:
            return [-1 - number]
        sectors = self._plan.sectors(number)
        if self._plan.writes(number):
            before = self._far.restored and self._plan.done_before_t0(number)
            return disks.found_written(disks.written_sectors(self._far), number, sectors, before_t0=before)
        transfer = self._plan.transfer(number, self._room(number))
        expected = self._filled(transfer, disks.content(sectors, written=False))
        right = self._memory.read(self._room(number), self._plan.room_bytes) == expected
        return [number if right else -1 - number]

    def _strays(self) -> list[int]:
        """Return writes to the image that this guest has not asked for."""
        numbers = (self._plan.number(sector) for sector in disks.written_sectors(self._far))
        return [number for number in dict.fromkeys(numbers) if number not in self._known]

    def _filled(self, transfer: Transfer, data: bytes) -> bytes:
        """Return the content of a request's room with some of its data, and _FILLER in all other places."""
        room, first = (
            bytearray(_FILLER * self._plan.room_bytes),
            min(piece.address for piece in transfer.pieces),
        )
        at = 0
        for piece in transfer.pieces:
            part = data[at : at + piece.size]
            place = piece.address - first
            room[place : place + len(part)] = part
            at += piece.size
        return bytes(room)

    def _room(self, number: int) -> int:
        return self._data + number % self._plan.counts.total * self._plan.room_bytes
