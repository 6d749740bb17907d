"""Reads the header of a libvirt save image, in the byte order of the machine that wrote it, and writes one.

libvirt 11.3 src/qemu/qemu_saveimage.h, struct _virQEMUSaveHeader: 16 bytes of magic; u32 version, length of
the XML and the cookie behind the header, was_running, format, offset of the cookie; 14 unused u32; 92 bytes
in all.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from harness.codes import Code
from harness.errors import UsageError
from validators.vmstate.containers.compressed import BZIP2, GZIP, XZ, ZSTD, Compression
from validators.vmstate.containers.container import Container, Problem
from validators.vmstate.stream.cursor import readable

SAVED = b"LibvirtQemudSave"
UNFINISHED = b"LibvirtQemudPart"

# Magic, the five numbers, unused.
_MAGIC_BYTES, _NUMBERS, _UNUSED_BYTES = 16, "5I", 56
_HEADER_BYTES = _MAGIC_BYTES + struct.calcsize(f"<{_NUMBERS}") + _UNUSED_BYTES
_VERSION = 2
# libvirt itself refuses XML of more than 10 MiB (virXMLParse) and so cannot write it.
_MOST_DATA_BYTES = 64 << 20
_XML_BYTES = 10 << 20
_RAW, _LZOP, _SPARSE = 0, 4, 6
_FORMAT_NAMES = ("raw", "gzip", "bzip2", "xz", "lzop", "zstd", "sparse")
_COMPRESSIONS = {1: GZIP, 2: BZIP2, 3: XZ, 5: ZSTD}
# Of a declaration libvirt writes none; one could make the parser expand without bound.
_DECLARATION = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


@dataclass(frozen=True)
class SaveImage:
    """A libvirt save image.

    Attributes:
        container: what it says.
        start: file offset of the stream, or of the compressed data that has it.
        compression: of the latter, None if the stream is not compressed.
    """

    container: Container
    start: int
    compression: Compression | None


def is_save_image(head: bytes) -> bool:
    """Tell whether a file that begins so is a libvirt save image."""
    return head[:_MAGIC_BYTES] in (SAVED, UNFINISHED)


def save_image_header(xml: str, running: bool) -> bytes:
    """Return what stands before a stream in a save image of format raw that has no cookie.

    Args:
        xml: of the domain that libvirt is to restore.
        running: whether libvirt is to have the guest go on.
    """
    data = xml.encode() + b"\0"
    numbers = struct.pack(f"={_NUMBERS}", _VERSION, len(data), running, _RAW, 0)
    return SAVED + numbers + bytes(_UNUSED_BYTES) + data


def read_save_image(read: Callable[[int, int], bytes], at: int) -> SaveImage:
    """Read the header of the save image at file offset `at`.

    Args:
        read: returns up to so many bytes (the second) from an offset (the first) of the file.
        at: where the image begins.

    Raises:
        UsageError: the header is damaged, or its format cannot be read.
    """
    head = read(at, _HEADER_BYTES)
    if len(head) < _HEADER_BYTES:
        raise UsageError(f"The libvirt save image ends within its header, after {len(head)} bytes.")
    order = "<" if struct.unpack_from("<I", head, _MAGIC_BYTES)[0] == _VERSION else ">"
    version, data_length, running, number, cookie = struct.unpack_from(
        f"{order}{_NUMBERS}", head, _MAGIC_BYTES
    )
    if version != _VERSION:
        raise UsageError(f"The libvirt save image has the unknown version {version}; libvirt writes 2.")
    if data_length > _MOST_DATA_BYTES:
        raise UsageError(
            f"By its header the libvirt save image has {data_length:,} bytes of XML, more than libvirt "
            "writes; the header is damaged."
        )
    start = at + _HEADER_BYTES + data_length
    if number == _LZOP:
        raise UsageError(
            "The libvirt save image is compressed by lzop, which cannot be read here. Decompress the stream "
            f"and name the result: 'tail -c +{start + 1} FILE | lzop -dc > vmstate'."
        )
    if number not in (_RAW, _SPARSE, *_COMPRESSIONS):
        raise UsageError(
            f"The libvirt save image has the unknown format {number}; "
            f"known are 0 to {len(_FORMAT_NAMES) - 1} ({', '.join(_FORMAT_NAMES)})."
        )
    xml_length = min(cookie or data_length, data_length, _XML_BYTES)
    facts: dict[str, str | int] = {
        "domain": _domain_name(read(at + _HEADER_BYTES, xml_length)),
        "was running": "yes" if running else "no",
        "image format": _FORMAT_NAMES[number],
        "byte order": "little-endian" if order == "<" else "big-endian",
    }
    name = f"libvirt save image, {_FORMAT_NAMES[number]}"
    return SaveImage(Container(name, facts, _unfinished(head)), start, _COMPRESSIONS.get(number))


def _unfinished(head: bytes) -> Problem | None:
    if head[:_MAGIC_BYTES] == SAVED:
        return None
    return Problem(
        Code.CONTAINER_UNFINISHED,
        "The libvirt save image says that it is unfinished: libvirt or the save ended early, and libvirt "
        "will not restore it.",
    )


def _domain_name(xml: bytes) -> str:
    """Return the domain's name, safe to print, or why there is none."""
    # Only these containers have XML, and the import is slow.
    import xml.etree.ElementTree as ElementTree

    text = xml.partition(b"\0")[0]
    if _DECLARATION.search(text):
        return "(unknown: the XML has declarations, which libvirt does not write)"
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError):
        return "(unknown: the XML is damaged)"
    name = root.find("name") if root.tag == "domain" else root.find("domain/name")
    return readable((name.text or "").encode(errors="replace")) if name is not None else "(unknown)"
