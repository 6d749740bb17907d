"""A virtio-net card of a bare guest, whose driver the host plays, and the other end of its network.

See VIRTIO 1.2, 5.1. The network is a pair of UNIX datagram sockets (QEMU's netdev `dgram`).
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios
from collections.abc import Sequence
from pathlib import Path

from guest_images.agent.bare_agent import free_ram_at
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.configuration import MIB
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from harness.qemu.virtio_driver import Buffer, Queue, VirtioDevice
from tests_functional.in_flight.device_queue import Progress, progress
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_functional.in_flight.stream import InFlight
from tests_functional.in_flight.used import UsedChains

QEMU_SOCKET = "net"
"""Name of the socket at which QEMU takes packets."""
PEER_SOCKET = "net-peer"
"""Name of the socket to which QEMU sends packets."""

COUNTS = Counts(consumed=4, in_flight=8, later=4)
"""Packets around one snapshot."""

_NUMBER = 1
_RECEIVE, _TRANSMIT = 0, 1
_SIZE = 128
_BUFFER_BYTES = 2048
# VIRTIO 1.2, 5.1.6: the header in front of each packet. An Ethernet header has 14 bytes.
_HEADER_BYTES, _ETHERNET_BYTES = 12, 14
# A broadcast from a locally administered address, of a type for experiments (IEEE 802).
_ETHERNET = bytes.fromhex("ffffffffffff 525400000001 88b5")
_PACKET_BYTES = 60
_QUIET_SECONDS = 0.25
_SETTLE_SECONDS = 10.0
_FILLER, _OTHER = 0xFFFFFFFF, -1


class _Net:
    def __init__(self, machine: Machine, folder: Path, peer: socket.socket, *, queued: bool = False) -> None:
        self._machine = machine
        self._folder = folder
        self._queued = queued
        self._memory = GuestMemory(machine)
        base = free_ram_at(machine.config.machine, machine.config.ram_mib * MIB)
        self._receive = Queue(self._memory, base, _SIZE)
        self._transmit = Queue(self._memory, self._receive.end, _SIZE)
        self._in = self._transmit.end
        self._out = self._in + _SIZE * _BUFFER_BYTES
        self._device = VirtioDevice(machine, _NUMBER)
        self._used = UsedChains(self._receive)
        self._peer = peer

    def start(self) -> None:
        """Set both queues up, and give the device all buffers to receive into, unless packets must wait."""
        inward = [[Buffer(self._in + at * _BUFFER_BYTES, _BUFFER_BYTES)] for at in range(_SIZE)]
        size = _HEADER_BYTES + _PACKET_BYTES
        outward = [[Buffer(self._out + at * TARGET_PAGE_BYTES, size, written=False)] for at in range(_SIZE)]
        self._receive.lay_out(inward)
        self._transmit.lay_out(outward)
        self._device.start(self._receive, further={_TRANSMIT: self._transmit})
        if not self._queued:
            self._receive.offer(_SIZE)
            self._device.notify()

    def resume(self, position: int) -> None:
        """Go on where the driver was with the queue that it receives from."""
        self._used.position = position


def peer_socket(folder: Path) -> socket.socket:
    """Return the other end of the network, which has to be there before QEMU sends packets."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    peer.bind(str(folder / PEER_SOCKET))
    return peer


class NetIn(_Net):
    """Packets to the guest; in flight they are in used buffers, or in QEMU where the guest has no buffer."""

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Send packets, and have the guest see some."""
        self.send(numbers.consumed, deadline)
        self._used.take(len(numbers.consumed), deadline)
        self._send(numbers.in_flight)
        if self._queued:
            self._require_waiting(len(numbers.in_flight) - 1, deadline)
        else:
            deadline.wait_for(lambda: self._used.unseen() == len(numbers.in_flight), "The packets' arrival")
        return InFlight(numbers.in_flight, self._used.position)

    def _require_waiting(self, count: int, deadline: Deadline) -> None:
        """Check that QEMU has one packet in its own queue, and so many wait in its socket.

        Raises:
            SetupBroken: they do not.
        """
        one = _size_in_socket()
        try:
            deadline.at_most(_SETTLE_SECONDS).wait_for(
                lambda: _unread(self._peer) == count * one, "QEMU's reading of one packet"
            )
        except DeadlineExpired as error:
            raise SetupBroken(
                f"{_unread(self._peer) // one} packets wait in QEMU's socket and not {count}, so this run "
                "proves nothing."
            ) from error
        if self._used.unseen():
            raise SetupBroken("The guest's card has a buffer for a packet that should wait.")

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Send packets.

        Raises:
            SetupBroken: QEMU does not take them.
        """
        if self._queued:
            self._allow(len(numbers))
        self._send(numbers)

    def _send(self, numbers: Sequence[int]) -> None:
        try:
            for number in numbers:
                self._peer.sendto(_packet(number), str(self._folder / QEMU_SOCKET))
        except OSError as error:
            raise SetupBroken(f"QEMU takes no packets for the guest: {error}.") from error

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Have the guest see all packets that have arrived."""
        if self._queued:
            self._allow(count)
        found = []
        for first, size in self._used.take(count, deadline):
            data = self._memory.read(self._in + first * _BUFFER_BYTES, size)
            found.append(_number(data[_HEADER_BYTES:]))
        return found

    def _allow(self, count: int) -> None:
        """Give the device so many buffers in all that the driver has not seen."""
        self._receive.offer(self._used.position + count)
        self._device.notify()


class NetOut(_Net):
    """Packets from the guest; in flight they are in buffers that the device was not told of, or has."""

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Have the guest send packets, and offer some more."""
        self.send(numbers.consumed, deadline)
        self.deliver(len(numbers.consumed), deadline)
        if self._queued:
            self._fill_peer()
        self._offer(numbers.in_flight)
        if self._queued:
            self._device.notify(_TRANSMIT)
            self._require_one_in_hand(deadline)
        return InFlight(numbers.in_flight)

    def _require_one_in_hand(self, deadline: Deadline) -> None:
        """Check that the device has one packet that the other end does not take.

        Raises:
            SetupBroken: it has none, or several.
        """

        def found() -> Progress:
            return progress(self._machine, "virtio-net", _TRANSMIT, self._transmit)

        try:
            deadline.at_most(_SETTLE_SECONDS).wait_for(lambda: found().in_hand == 1, "The device's packet")
        except DeadlineExpired as error:
            raise SetupBroken(
                f"No packet waits in the guest's card, so this run proves nothing: {found()}."
            ) from error

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Have the guest send packets."""
        self._offer(numbers)
        self._device.notify(_TRANSMIT)

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Tell the device of all packets, and return those that arrive at the other end."""
        self._device.notify(_TRANSMIT)
        found: list[int] = []
        while True:
            complete = len(found) >= count
            self._peer.settimeout(_QUIET_SECONDS if complete else max(deadline.remaining(), _QUIET_SECONDS))
            try:
                data = self._peer.recv(_BUFFER_BYTES)
            except TimeoutError:
                # A deadline may move meanwhile.
                if complete or deadline.expired:
                    return found
                continue
            # A restored card announces itself by packets of another type.
            if (number := _number(data)) not in (_FILLER, _OTHER):
                found.append(number)

    def _offer(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            slot = number % _SIZE
            data = bytes(_HEADER_BYTES) + _packet(number)
            self._memory.write(self._out + slot * TARGET_PAGE_BYTES, data)
            self._transmit.offer_chain(slot)

    def _fill_peer(self) -> None:
        """Send packets to the other end until it takes no more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                while True:
                    sender.sendto(_packet(_FILLER), str(self._folder / PEER_SOCKET))
            except BlockingIOError:
                return


def _unread(sender: socket.socket) -> int:
    """Return what the kernel counts for packets that were not read (Linux 6.18 net/unix/af_unix.c)."""
    count = array.array("i", [0])
    fcntl.ioctl(sender, termios.TIOCOUTQ, count)
    return count[0]


def _size_in_socket() -> int:
    """Return what the kernel counts for one packet, which is more than its bytes."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        sender.send(_packet(0))
        return _unread(sender)


def _packet(number: int) -> bytes:
    return (_ETHERNET + struct.pack("<I", number)).ljust(_PACKET_BYTES, b"\0")


def _number(packet: bytes) -> int:
    """Return the number in a packet, _OTHER for a packet of another type."""
    if packet[_ETHERNET_BYTES - 2 : _ETHERNET_BYTES] != _ETHERNET[-2:]:
        return _OTHER
    return int(struct.unpack_from("<I", packet, _ETHERNET_BYTES)[0])
