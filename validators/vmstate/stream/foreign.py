"""Tells what a file is that has no vmstate stream, by how it begins, and what to do with it instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.elf_core import is_elf_core

HEAD_BYTES = 0x8800
"""Bytes of a file's beginning that tell what it is; an ISO image says so at 0x8001."""

_DUMP = "Such a dump has RAM and registers, and no device state: read it with crash, drgn or gdb"
_CORE = f"'snapproof check' judges the agent's pages in it. {_DUMP}"
_DISK = "A disk image has no state of a running guest: name the file that 'migrate' or 'virsh save' wrote"

_PIPE = "It is read from a file, and not from a pipe: name the file, or decompress it before the pipe"


@dataclass(frozen=True)
class _Format:
    """A format that is no vmstate stream.

    Attributes:
        name: what the file is, in words.
        advice: what to do instead.
        matches: tells it by the beginning of a file.
    """

    name: str
    advice: str
    matches: Callable[[bytes], bool]


def _at(offset: int, *magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: any(head[offset : offset + len(magic)] == magic for magic in magics)


# kdump: makedumpfile's diskdump_mod.h. Disks: QEMU 10.0 block/*.c.
_FORMATS = (
    _Format("an ELF core", _CORE, is_elf_core),
    _Format("an ELF program", "Name the file that 'migrate' wrote", _at(0, b"\x7fELF")),
    _Format("a kdump file", _DUMP, _at(0, b"KDUMP   ", b"makedumpfile")),
    _Format("a qcow2 disk image", _DISK, _at(0, b"QFI\xfb")),
    _Format("a QED disk image", _DISK, _at(0, b"QED\0")),
    _Format("a VMDK disk image", _DISK, _at(0, b"KDMV", b"COWD", b"# Disk DescriptorFile")),
    _Format("a VHDX disk image", _DISK, _at(0, b"vhdxfile")),
    _Format("a VHD disk image", _DISK, _at(0, b"conectix")),
    _Format("a VDI disk image", _DISK, _at(0x40, b"\x7f\x10\xda\xbe")),
    _Format("an ISO image", _DISK, _at(0x8001, b"CD001")),
    _Format("a raw disk image with a GUID partition table", _DISK, _at(512, b"EFI PART")),
    _Format("a raw disk image with a boot sector", _DISK, _at(510, b"\x55\xaa")),
    _Format("a libvirt save image", _PIPE, _at(0, b"LibvirtQemud")),
    _Format("gzip data", _PIPE, _at(0, b"\x1f\x8b")),
    _Format("bzip2 data", _PIPE, _at(0, b"BZh")),
    _Format("xz data", _PIPE, _at(0, b"\xfd7zXZ\0")),
    _Format("zstd data", _PIPE, _at(0, b"\x28\xb5\x2f\xfd")),
    _Format("lz4 data", _PIPE, _at(0, b"\x04\x22\x4d\x18")),
    _Format("a tar archive", "Unpack it", _at(257, b"ustar")),
    _Format("a zip archive", "Unpack it", _at(0, b"PK\3\4")),
)
_RAW = (
    " If it is raw RAM, as 'pmemsave' and other VMMs write it, 'snapproof check --raw FILE' judges the "
    "agent's pages in it, and it can be the golden image of a vmstate file: "
    "'snapproof check VMSTATE --golden FILE'."
)


def foreign_words(head: bytes) -> str:
    """Return a sentence that says what a file without a vmstate stream is, and what to do with it.

    Args:
        head: its first HEAD_BYTES bytes, or all of them.
    """
    found = next((one for one in _FORMATS if one.matches(head)), None)
    return _RAW if found is None else f" It is {found.name}. {found.advice}."
