"""Streams of a bare guest in QEMU's user network (libslirp), whose driver and TCP the host plays.

A connection to a server that QEMU plays by a character device (`guestfwd`) is in the vmstate file, with the
bytes that libslirp keeps until the guest acknowledges them (libslirp 4.8 src/state.c slirp_state_save()).
What the host sends to a forwarded port (`hostfwd`) is not.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import DeadlineExpired, SetupBroken
from harness.qemu.configuration import qemu_quoted
from harness.qemu.guest_memory import GuestMemory
from harness.qemu.machine import Machine
from tests_functional.in_flight import frames
from tests_functional.in_flight.frames import Segment
from tests_functional.in_flight.numbers import Counts, Numbers
from tests_functional.in_flight.pipes import Pipes
from tests_functional.in_flight.stream import FarEnd, InFlight
from tests_functional.in_flight.virtio_nic import VirtioNic
from tests_functional.in_flight.words import WORD_BYTES, packed, unpacked

IN_COUNTS = Counts(consumed=8, in_flight=48, later=8)
"""Words to the guest: those in flight are three times what its window takes."""

OUT_COUNTS = Counts(consumed=4, in_flight=8, later=4)
"""Words from the guest, one in each segment; and packets to it."""

_WINDOW = 64
_GUEST_PORT, _SERVER_PORT = 40000, 7
_FIRST_SEQUENCE = 1000
_HOST = "127.0.0.1"
_NUMBERS = 1 << 32
_START_SECONDS, _SETTLE_SECONDS = 10.0, 10.0
# libslirp 4.8 src/misc.c slirp_connection_info(): two addresses with ports, and the bytes in two queues.
_CONNECTION = r"^\s*{}\[{}\]\s+-?\d+\s+\S+\s+(\d+)\s+\S+\s+{}\s+(\d+)\s+(\d+)\s*$"


def server_arguments(far: FarEnd) -> tuple[str, ...]:
    """Return the arguments for a network with a server that is a character device."""
    server = ".".join(str(byte) for byte in frames.SERVER)
    forward = f"guestfwd=tcp:{server}:{_SERVER_PORT}-chardev:flight"
    return (
        *("-chardev", f"pipe,id=flight,path={qemu_quoted(far.pipes.path)}"),
        *("-netdev", f"user,id=flight-net,restrict=on,{forward}"),
    )


def forward_arguments() -> tuple[str, ...]:
    """Return the arguments for a network with a port of the host that is forwarded to the guest."""
    guest = ".".join(str(byte) for byte in frames.GUEST)
    # Port 0: the kernel picks a free port.
    return ("-netdev", f"user,id=flight-net,restrict=on,hostfwd=udp:{_HOST}:0-{guest}:{_SERVER_PORT}")


def connection(listed: str, protocol: str, state: str) -> tuple[int, int, int]:
    """Return source port, and bytes in both queues, of the one connection to the server's port.

    Args:
        listed: what QEMU's monitor says of user networks.
        protocol: "TCP" or "UDP".
        state: of the connection.

    Raises:
        SetupBroken: there is no such connection.
    """
    found = re.search(_CONNECTION.format(protocol, state, _SERVER_PORT), listed, re.MULTILINE)
    if found is None:
        raise SetupBroken(f"QEMU's user network has no connection {protocol}[{state}]; it says: {listed}")
    return int(found[1]), int(found[2]), int(found[3])


class _Connection:
    """A TCP connection of the guest with the server; how far it is, is in guest RAM."""

    def __init__(self, machine: Machine, pipes: Pipes) -> None:
        self._machine, self._pipes = machine, pipes
        self._nic = VirtioNic(machine)
        self._memory = GuestMemory(machine)
        self._expected, self._next = 0, _FIRST_SEQUENCE

    def start(self) -> None:
        """Set the card up, and connect to the server.

        Raises:
            SetupBroken: the server does not answer as it must.
        """
        self._nic.start(buffers=True)
        self._nic.put(frames.announcement())
        self._put(frames.SYN)
        self._nic.tell()
        deadline = Deadline(_START_SECONDS)
        while not self._expected:
            for frame in self._nic.take(1, deadline):
                segment = frames.segment_in(frame)
                if segment and segment.flags & (frames.SYN | frames.RESET) == frames.SYN:
                    self._expected = segment.sequence + 1
            if deadline.expired and not self._expected:
                raise SetupBroken("The guest gets no answer from the server in QEMU's user network.")
        self._next = _FIRST_SEQUENCE + 1
        self._put(frames.ACK)
        self._nic.tell()
        self._note()

    def resume(self, position: int) -> None:
        """Go on where card and connection were."""
        self._nic.resume(position)
        self._expected, self._next = struct.unpack("<II", self._memory.read(self._nic.end, 8))

    def _note(self) -> None:
        self._memory.write(self._nic.end, struct.pack("<II", self._expected, self._next))

    def _put(self, flags: int, data: bytes = b"") -> None:
        """Offer the card a segment; raises PageProtected."""
        ports = _GUEST_PORT, _SERVER_PORT
        self._nic.put(frames.segment_frame(Segment(ports, self._next, self._expected, flags, data), _WINDOW))
        self._next = (self._next + len(data)) % _NUMBERS

    def _see(self, received: Sequence[bytes]) -> bytes:
        """Have the guest see frames: answer them, and return the bytes that they bring, in order."""
        found = b""
        for frame in received:
            if answer := frames.answer_to(frame):
                self._nic.put(answer)
            segment = frames.segment_in(frame)
            if segment is None or not segment.data:
                continue
            known = (self._expected - segment.sequence) % _NUMBERS
            # A part of it may have come already. What comes too early is sent again.
            if known < len(segment.data):
                found += segment.data[known:]
                self._expected = (self._expected + len(segment.data) - known) % _NUMBERS
            self._put(frames.ACK)
        self._note()
        self._nic.give_back()
        self._nic.tell()
        return found


class ServerIn(_Connection):
    """Bytes from the server; in flight they are in a segment that the guest has not seen, and in libslirp."""

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Send bytes, and have the guest see and acknowledge the first ones."""
        self.send(numbers.consumed, deadline)
        self.deliver(len(numbers.consumed), deadline)
        self.send(numbers.in_flight, deadline)
        self._require_kept(len(numbers.in_flight) * WORD_BYTES, deadline)
        return InFlight(numbers.in_flight, self._nic.position)

    def _require_kept(self, count: int, deadline: Deadline) -> None:
        """Check that libslirp keeps all bytes, and that the guest has some of them.

        Raises:
            SetupBroken: they are elsewhere.
        """
        try:
            deadline.at_most(_SETTLE_SECONDS).wait_for(
                lambda: self._kept() == count and self._nic.unseen() > 0, "The keeping of bytes by libslirp"
            )
        except DeadlineExpired as error:
            raise SetupBroken(
                f"libslirp keeps {self._kept()} bytes and not {count}, and the guest has not seen "
                f"{self._nic.unseen()} frames, so this run proves nothing."
            ) from error

    def _kept(self) -> int:
        """Return how many bytes libslirp keeps, since the guest has not acknowledged them."""
        return connection(self._machine.hmp("info usernet"), "TCP", "ESTABLISHED")[2]

    def send(self, numbers: Sequence[int], deadline: Deadline) -> None:
        """Send bytes, and wait until QEMU has read them."""
        self._pipes.send(packed(numbers), deadline)

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Have the guest see all bytes, until it has them or libslirp has no more."""
        found = b""
        while True:
            more = self._see(self._nic.take(0, deadline))
            found += more
            if not more and (len(found) >= count * WORD_BYTES or deadline.expired or not self._kept()):
                return unpacked(found)


class ServerOut(_Connection):
    """Bytes to the server; in flight they are in segments that the card was not told of."""

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Have the guest send segments, and offer some more."""
        self.send(numbers.consumed, deadline)
        self.deliver(len(numbers.consumed), deadline)
        self._offer(numbers.in_flight)
        return InFlight(numbers.in_flight, self._nic.position)

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Have the guest send segments."""
        self._offer(numbers)
        self._nic.tell()

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Tell the card of all segments, and return what arrives at the server."""
        self._nic.tell()
        return unpacked(self._pipes.receive(count * WORD_BYTES, deadline))

    def _offer(self, numbers: Sequence[int]) -> None:
        # Acknowledgements, which change nothing here.
        self._see(self._nic.take(0, Deadline(0)))
        for number in numbers:
            self._put(frames.ACK | frames.PUSH, packed([number]))
        self._note()


class ForwardedIn:
    """Datagrams to a forwarded port; in flight they are in QEMU's queue, since the guest has no buffer."""

    def __init__(self, machine: Machine) -> None:
        """Find the card of a running machine."""
        self._machine, self._nic = machine, VirtioNic(machine)
        self._port = 0

    def start(self) -> None:
        """Set the card up without buffers, and say where the guest is."""
        self._nic.start(buffers=False)
        self._announce()

    def resume(self, position: int) -> None:
        """Go on where the driver was, and say where the guest is: no file has what libslirp knows of that."""
        self._nic.resume(position)
        self._announce()

    def _announce(self) -> None:
        self._nic.put(frames.announcement())
        self._nic.tell()
        listed = self._machine.hmp("info usernet")
        self._port = connection(listed, "UDP", "HOST_FORWARD")[0]

    def fill(self, numbers: Numbers, deadline: Deadline) -> InFlight:
        """Send datagrams, and have the guest see the first ones."""
        self.send(numbers.consumed, deadline)
        self.deliver(len(numbers.consumed), deadline)
        self._send(numbers.in_flight)
        if self._nic.unseen():
            raise SetupBroken("The guest's card has a buffer for a packet that should wait.")
        return InFlight(numbers.in_flight, self._nic.position)

    def send(self, numbers: Sequence[int], _deadline: Deadline) -> None:
        """Give the card a buffer for each of some datagrams, and send them."""
        self._nic.allow(len(numbers))
        self._send(numbers)

    def deliver(self, count: int, deadline: Deadline) -> list[int]:
        """Have the guest see all datagrams that arrive."""
        self._nic.allow(count)
        bodies = (frames.datagram_in(frame) for frame in self._nic.take(count, deadline))
        return [number for body in bodies if body is not None for number in unpacked(body)]

    def _send(self, numbers: Sequence[int]) -> None:
        """Send datagrams, and wait until QEMU has read all of them."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for number in numbers:
                    sender.sendto(packed([number]), (_HOST, self._port))
        except OSError as error:
            raise SetupBroken(f"QEMU takes no packets for the guest: {error}.") from error
        # The deadline of packets that are lost is over already.
        Deadline(_SETTLE_SECONDS).wait_for(
            lambda: not _unread(self._port), "QEMU's reading of packets for the guest"
        )


def _unread(port: int) -> int:
    """Return the bytes that wait at a UDP port (Linux 6.18 net/ipv4/udp.c udp4_format_sock())."""
    for line in Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == port:
            return int(fields[4].partition(":")[2], 16)
    return 0
