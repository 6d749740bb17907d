"""Builds and reads the frames of a guest in QEMU's user network: ARP, and TCP and UDP over IPv4.

See RFC 826 (ARP), RFC 791 (IPv4), RFC 9293 (TCP) and RFC 768 (UDP). The addresses are those that QEMU gives
such a network (QEMU 10.0 net/slirp.c net_slirp_init()).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

GUEST = bytes((10, 0, 2, 15))
"""The guest's address."""
SERVER = bytes((10, 0, 2, 100))
"""Address of a server that QEMU plays."""

FIN, SYN, RESET, PUSH, ACK = 1, 2, 4, 8, 16
"""Flags of a TCP segment."""

# A locally administered address (IEEE 802) for the guest; libslirp 4.8 takes frames to any other one.
_GUEST_MAC, _OTHER_MAC, _ALL = (bytes.fromhex(text) for text in ("525400000001", "52550a000202", "ff" * 6))
_IPV4, _ARP = b"\x08\x00", b"\x08\x06"
_TCP, _UDP = 6, 17
_ETHERNET_BYTES, _IP_BYTES, _TCP_BYTES, _UDP_BYTES = 14, 20, 20, 8
_ARP_REQUEST, _ARP_ANSWER = 1, 2


@dataclass(frozen=True)
class Segment:
    """A TCP segment.

    Attributes:
        ports: its source and destination.
        sequence: number of the first byte of its data.
        acknowledged: number of the byte that its sender expects.
        flags: SYN, ACK and so on.
        data: what it carries.
    """

    ports: tuple[int, int]
    sequence: int
    acknowledged: int
    flags: int
    data: bytes = b""


def announcement() -> bytes:
    """Return the frame by which the guest says that it has its address: an ARP request for that address."""
    return _arp(_ALL, _ARP_REQUEST, bytes(6), GUEST)


def answer_to(frame: bytes) -> bytes | None:
    """Return the guest's answer to an ARP request for its address, None for another frame."""
    kind, body = frame[12:_ETHERNET_BYTES], frame[_ETHERNET_BYTES:]
    if kind != _ARP or body[6:8] != struct.pack(">H", _ARP_REQUEST) or body[24:28] != GUEST:
        return None
    return _arp(body[8:14], _ARP_ANSWER, body[8:14], body[14:18])


def segment_frame(segment: Segment, window: int) -> bytes:
    """Return the frame of a segment from the guest to SERVER.

    Args:
        segment: what is sent.
        window: bytes that the guest takes next.
    """
    head = struct.pack(
        ">HHIIBBHHH",
        *(*segment.ports, segment.sequence, segment.acknowledged, _TCP_BYTES // 4 << 4, segment.flags),
        *(window, 0, 0),
    )
    pseudo = GUEST + SERVER + struct.pack(">HH", _TCP, len(head) + len(segment.data))
    total = _checksum(pseudo + head + segment.data)
    head = head[:16] + struct.pack(">H", total) + head[18:]
    size = _IP_BYTES + len(head) + len(segment.data)
    packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, _TCP, 0, GUEST, SERVER)
    packet = packet[:10] + struct.pack(">H", _checksum(packet)) + packet[12:]
    return _OTHER_MAC + _GUEST_MAC + _IPV4 + packet + head + segment.data


def segment_in(frame: bytes) -> Segment | None:
    """Return the TCP segment in a frame from SERVER, None for another frame."""
    body = _ip_body(frame, _TCP)
    if body is None or frame[_ETHERNET_BYTES + 12 : _ETHERNET_BYTES + 16] != SERVER:
        return None
    source, target, sequence, acknowledged, offset, flags = struct.unpack_from(">HHIIBB", body)
    return Segment((source, target), sequence, acknowledged, flags, body[(offset >> 4) * 4 :])


def datagram_in(frame: bytes) -> bytes | None:
    """Return what the UDP datagram in a frame carries, None for another frame."""
    body = _ip_body(frame, _UDP)
    return None if body is None else body[_UDP_BYTES:]


def _ip_body(frame: bytes, protocol: int) -> bytes | None:
    """Return what an IPv4 packet of a protocol carries, without the padding of its frame."""
    packet = frame[_ETHERNET_BYTES:]
    if frame[12:_ETHERNET_BYTES] != _IPV4 or len(packet) < _IP_BYTES or packet[9] != protocol:
        return None
    (size,) = struct.unpack_from(">H", packet, 2)
    return packet[(packet[0] & 0xF) * 4 : size]


def _arp(to: bytes, operation: int, target_mac: bytes, target: bytes) -> bytes:
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    return to + _GUEST_MAC + _ARP + head + _GUEST_MAC + GUEST + target_mac + target


def _checksum(data: bytes) -> int:
    """Return the checksum of IPv4 and TCP (RFC 1071)."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
