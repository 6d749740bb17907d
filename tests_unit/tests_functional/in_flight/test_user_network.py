"""Contract: a guest in QEMU's user network answers for its address, and takes each byte once."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.qemu.architectures import PC
from harness.qemu.machine import Machine
from tests_functional.in_flight import frames, user_network
from tests_functional.in_flight.frames import Segment
from tests_functional.in_flight.kinds import STREAM_KINDS
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.packets import peer_socket
from tests_functional.in_flight.pipes import pipes
from tests_functional.in_flight.stream import FarEnd
from tests_functional.in_flight.user_network import ServerIn, connection
from tests_functional.in_flight.words import packed, unpacked
from tests_unit.support.real_machine import real_machine

_LISTED = """Hub -1 (flight-net):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   -1       10.0.2.15 40000      10.0.2.100     7     0   128
  UDP[HOST_FORWARD]  23       127.0.0.1 34567       10.0.2.15     7     0     0
"""
_PORTS = (40000, 7)


def _turned(frame: bytes) -> bytes:
    """Return a frame of the guest's as one from the server."""
    return frame[:26] + frame[30:34] + frame[26:30] + frame[34:]


def test_connections_are_read() -> None:
    """Port and queues are those of the connection that was asked for."""
    assert connection(_LISTED, "TCP", "ESTABLISHED") == (40000, 0, 128)
    assert connection(_LISTED, "UDP", "HOST_FORWARD") == (34567, 0, 0)
    with pytest.raises(SetupBroken, match=r"has no connection TCP\[SYN_SENT\]"):
        connection(_LISTED, "TCP", "SYN_SENT")


def test_segment_is_read_back() -> None:
    """A segment has what it was made of, without the padding of its frame."""
    segment = Segment(_PORTS, 0xFFFFFFF0, 7, frames.ACK, b"abcd")
    frame = _turned(frames.segment_frame(segment, 64)).ljust(60, b"\0")
    assert frames.segment_in(frame) == segment


def test_segment_has_right_checksums() -> None:
    """The words of the header, and those of pseudo-header and segment, add up to all ones (RFC 1071)."""
    frame = frames.segment_frame(Segment(_PORTS, 1, 7, frames.ACK, b"abc"), 64)
    head, body = frame[14:34], frame[34:]
    pseudo = frames.GUEST + frames.SERVER + struct.pack(">HH", 6, len(body))
    for data in (head, pseudo + body + b"\0"):
        total = sum(struct.unpack(f">{len(data) // 2}H", data))
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_other_frames_are_no_segments() -> None:
    """A segment from another address, an ARP frame, a datagram and a short frame are none."""
    frame = frames.segment_frame(Segment(_PORTS, 1, 7, frames.ACK), 64)
    datagram = frame[:23] + b"\x11" + frame[24:]
    for other in (frame, frames.announcement(), _turned(datagram), b"", frame[:20]):
        assert frames.segment_in(other) is None
    assert frames.datagram_in(datagram[:42] + b"data" + datagram[46:]) == b"data" + datagram[46:54]
    assert frames.datagram_in(frame) is None


def test_guest_answers_for_its_address_alone() -> None:
    """An ARP request for it is answered to its sender; others and answers are not."""
    mac, sender = bytes.fromhex("52550a000202"), bytes((10, 0, 2, 2))
    head = b"\xff" * 6 + mac + b"\x08\x06" + bytes.fromhex("0001080006040001")
    request = head + mac + sender + bytes(6) + frames.GUEST
    answer = frames.answer_to(request)
    assert answer is not None
    assert (answer[:6], answer[20:22]) == (mac, b"\0\2")
    assert answer[28:32] + answer[32:38] + answer[38:42] == frames.GUEST + mac + sender
    assert frames.answer_to(head + mac + sender + bytes(6) + sender) is None
    assert frames.answer_to(answer) is None


def test_words_of_an_incomplete_item() -> None:
    """What is left of an item is another number."""
    assert unpacked(packed([1, 2]) + b"\3") == [1, 2, 0xFFFFFF03]


@contextmanager
def _server(folder: Path) -> Iterator[tuple[Machine, ServerIn, FarEnd]]:
    kind = STREAM_KINDS["user-net-in"]
    with pipes(folder / "pipe") as ends, peer_socket(folder) as peer:
        far = FarEnd(folder, ends, peer, folder / "board", folder / "disk", False)
        with real_machine(folder / "machine", *kind.arguments(far), machine=PC.name) as machine:
            stream = ServerIn(machine, ends)
            stream.start()
            yield machine, stream, far


@pytest.mark.vm
def test_bytes_wait_and_arrive_once(tmp_path: Path) -> None:
    """What the window does not take waits in libslirp; all of it arrives in order, and more after it."""
    numbers = Numbers.of(0, user_network.IN_COUNTS)
    with _server(tmp_path) as (machine, stream, _):
        flight = stream.fill(numbers, Deadline(20))
        assert connection(machine.hmp("info usernet"), "TCP", "ESTABLISHED")[2] == 4 * len(numbers.in_flight)
        assert stream.deliver(len(numbers.in_flight), Deadline(20)) == list(flight.restored)
        stream.send(numbers.source, Deadline(20))
        assert stream.deliver(len(numbers.source), Deadline(20)) == list(numbers.source)


@pytest.mark.vm
def test_segments_that_come_again_are_taken_once(tmp_path: Path) -> None:
    """Of a segment that has some known bytes the others are taken; one that comes too early is not."""
    with _server(tmp_path) as (_, stream, _):
        first = stream._expected

        def frame(number: int, data: bytes) -> bytes:
            return _turned(frames.segment_frame(Segment(_PORTS[::-1], number, 0, frames.ACK, data), 64))

        assert stream._see([frame(first, b"abcd"), frame(first, b"abcdef")]) == b"abcdef"
        assert stream._see([frame(first + 8, b"late"), frame(first, b"abcd")]) == b""
        assert stream._expected == first + 6
