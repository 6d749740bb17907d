"""A virtio-net card of a bare guest, whose driver the host plays, and the other end of its network.

The network is a pair of UNIX datagram sockets (QEMU's netdev `dgram`).
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import termios
from collections.abc import Sequence
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.qemu.machine import Machine
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_functional.in_flight.stream import InFlight
from tests_functional.in_flight.virtio_nic import FRAME_BYTES, VirtioNic

QEMU_SOCKET = "net"
"""Name of the socket at which QEMU takes packets."""
PEER_SOCKET = "net-peer"
"""Name of the socket to which QEMU sends packets."""

COUNTS = Counts(consumed=4, in_flight=8, later=4)
"""Packets around one snapshot."""

_BUFFER_BYTES = 2048
# An Ethernet header has 14 bytes.
_ETHERNET_BYTES = 14
# A broadcast from a locally administered address, of a type for experiments (IEEE 802).
_ETHERNET = bytes.fromhex("ffffffffffff 525400000001 88b5")
_QUIET_SECONDS = 0.25
_SETTLE_SECONDS = 10.0
_FILLER, _OTHER = 0xFFFFFFFF, -1


class _Net:
    def __init__(self, machine: Machine, folder: Path, peer: socket.socket, *, queued: bool = False) -> None:
        self._folder, self._peer, self._queued = folder, peer, queued
        self._nic = VirtioNic(machine)

    def start(self) -> None:
        """Set the card up, and give it all buffers to receive into, unless packets must wait."""
        self._nic.start(buffers=not self._queued)

    def resume(self, position: int) -> None:
        """Go on where the driver was with the queue that it receives from."""
        self._nic.resume(position)


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
        self._nic.take(len(numbers.consumed), deadline)
        self._send(numbers.in_flight)
        if self._queued:
            self._require_waiting(len(numbers.in_flight) - 1, deadline)
        else:
            deadline.wait_for(lambda: self._nic.unseen() == len(numbers.in_flight), "The packets' arrival")
        return InFlight(numbers.in_flight, self._nic.position)

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
        if self._nic.unseen():
            raise SetupBroken("The guest's card has a buffer for a packet that should wait.")

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Send packets.

        Raises:
            SetupBroken: QEMU does not take them.
        """
        if self._queued:
            self._nic.allow(len(numbers))
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
            self._nic.allow(count)
        return [_number(frame) for frame in self._nic.take(count, deadline)]


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
            self._nic.tell()
            self._require_one_in_hand(deadline)
        return InFlight(numbers.in_flight)

    def _require_one_in_hand(self, deadline: Deadline) -> None:
        """Check that the device has one packet that the other end does not take.

        Raises:
            SetupBroken: it has none, or several.
        """
        sending = self._nic.sending
        try:
            deadline.at_most(_SETTLE_SECONDS).wait_for(lambda: sending().in_hand == 1, "The device's packet")
        except DeadlineExpired as error:
            raise SetupBroken(
                f"No packet waits in the guest's card, so this run proves nothing: {sending()}."
            ) from error

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Have the guest send packets."""
        self._offer(numbers)
        self._nic.tell()

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Tell the device of all packets, and return those that arrive at the other end."""
        self._nic.tell()
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
            self._nic.put(_packet(number))

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
    return (_ETHERNET + struct.pack("<I", number)).ljust(FRAME_BYTES, b"\0")


def _number(packet: bytes) -> int:
    """Return the number in a packet, _OTHER for a packet of another type."""
    if packet[_ETHERNET_BYTES - 2 : _ETHERNET_BYTES] != _ETHERNET[-2:]:
        return _OTHER
    return int(struct.unpack_from("<I", packet, _ETHERNET_BYTES)[0])
