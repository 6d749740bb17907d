"""Builds containers of a vmstate stream by their documented layouts, not by the programs that write them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

XML = b"<domain type='kvm'><name>web-1</name></domain>"
CLUSTER = 512
_COVERED = CLUSTER * (CLUSTER // 8)


def save_image(
    stream: bytes, number: int = 0, order: str = "<", magic: bytes = b"LibvirtQemudSave", xml: bytes = XML,
    running: int = 1,
) -> bytes:  # fmt: skip
    """A save image as libvirt lays it out (src/qemu/qemu_saveimage.h), with a cookie behind the XML."""
    cookie = b"<cookie/>\0"
    data = xml + b"\0" + cookie
    header = struct.pack(f"{order}5I", 2, len(data), running, number, len(xml) + 1)
    return magic + header + bytes(56) + data + stream


def qcow2(
    *streams: tuple[str, bytes], disk_bytes: int = 40_000, features: int = 0, crypt: int = 0,
    version: int = 3, extra_bytes: int = 16,
) -> bytes:  # fmt: skip
    """A qcow2 image of clusters of 512 bytes, with internal snapshots that have state of a guest.

    Clusters of a stream that are all zero are not allocated. By docs/interop/qcow2.txt of QEMU.
    """
    image = bytearray(CLUSTER)
    table = b""
    for number, (name, stream) in enumerate(streams, 1):
        l1_at, entries = _mapped(image, stream, -(-disk_bytes // _COVERED))
        extra = struct.pack(">QQ", len(stream), disk_bytes)[:extra_bytes]
        identity = b"%d" % number
        small = 0 if extra_bytes >= 8 else len(stream)
        entry = struct.pack(
            ">QIHHIIQII", l1_at, entries, len(identity), len(name), 0, 0, 0, small, len(extra)
        )
        entry += extra + identity + name.encode()
        table += entry + bytes(-len(entry) % 8)
    table_at = len(image)
    image += table
    header = struct.pack(">4sIQIIQII", b"QFI\xfb", version, 0, 0, 9, disk_bytes, crypt, 0)
    header += bytes(20) + struct.pack(">IQ", len(streams), table_at) + struct.pack(">Q", features)
    image[: len(header)] = header
    return bytes(image)


def _mapped(image: bytearray, stream: bytes, first: int) -> tuple[int, int]:
    """Append the clusters and tables of a stream; return place and length of the L1 table."""
    tables = []
    for start in range(0, len(stream), _COVERED):
        entries = []
        for at in range(start, min(len(stream), start + _COVERED), CLUSTER):
            piece = stream[at : at + CLUSTER].ljust(CLUSTER, b"\0")
            entries.append((len(image) | 1 << 63) if any(piece) else 0)
            image += piece if any(piece) else b""
        tables.append(_append(image, entries))
    l1 = [0] * first + [at | 1 << 63 for at in tables]
    return _append(image, l1), len(l1)


def _append(image: bytearray, entries: Sequence[int]) -> int:
    at = len(image)
    raw = struct.pack(f">{len(entries)}Q", *entries)
    image += raw + bytes(-len(raw) % CLUSTER)
    return at
