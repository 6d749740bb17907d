"""Contract: an ELF core has main RAM where the machine's processors see it, or is refused in one sentence."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.elf_core import Segment
from harness.errors import SnapshotWrong, UsageError
from harness.qemu.architectures import PC, Q35, X86_64
from harness.qemu.core_image import read_segments
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer, device
from validators.vmstate import elf_core
from validators.vmstate.elf_core import ElfCore, write_elf_core
from validators.vmstate.extract import write_pages
from validators.vmstate.memory_map import MemoryMap, Region
from validators.vmstate.pages import PageReader
from validators.vmstate.stream.index import Block

_INFO = b"OSRELEASE=6.1.0-test\nBUILD-ID=00\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff81000000\n"
_GIB = 1 << 30


@dataclass
class _Named(Writer):
    """A writer whose main RAMBlock has another name."""

    ram_block: str = field(default="pc.ram")

    def blocks(self) -> list[tuple[str, Any]]:
        """The same with that name."""
        (_, ram), *others = super().blocks()
        return [(self.ram_block, ram), *others]


def _guest(machine: str = "pc-i440fx-10.0") -> Guest:
    """A guest with random data in some pages, whose other pages are zero."""
    return Guest(machine=machine, agent=False)


def _put(guest: Guest, page: int, content: bytes) -> None:
    """Let pages of a guest begin with that."""
    pages = -(-len(content) // PAGE)
    rows = np.frombuffer(content.ljust(pages * PAGE, b"\0"), "<u8").reshape(pages, -1)
    guest.ram[page : page + pages] = rows


def _cmos(below: int, above: int) -> tuple[bytes, dict[str, Any]]:
    """The state of a PC's clock, with RAM in units of 64 KiB: from 16 MiB to 4 GiB, and above."""
    cmos = bytearray(128)
    cmos[0x34:0x36] = below.to_bytes(2, "little")
    cmos[0x5B:0x5E] = above.to_bytes(3, "little")
    return device(40, "mc146818rtc", list(struct.unpack(">32I", cmos)))


def _written(
    tmp_path: Path, guest: Guest, *, name: str = "pc.ram", cmos: tuple[int, int] | None = None
) -> tuple[Path, ElfCore]:
    path = tmp_path / "vmstate"
    path.write_bytes(_Named(guest, ram_block=name).stream_with([_cmos(*cmos)] if cmos else []))
    return tmp_path / "core", write_elf_core(path, tmp_path / "core")


def _memory(core: Path, address: int, size: int) -> bytes:
    """Read guest-physical memory out of an ELF core, by another reader than its writer."""
    for segment in read_segments(core):
        if segment.address <= address and address + size <= segment.address + segment.size:
            at = segment.file_offset + address - segment.address
            return core.read_bytes()[at : at + size]
    raise AssertionError(f"{address:#x} is in no segment")


def _notes(core: Path) -> bytes:
    """Return the content of the note segment, b"" without one; little-endian."""
    content = core.read_bytes()
    (count,) = struct.unpack_from("<H", content, 56)
    for number in range(count):
        kind, _, offset, _, _, size, _, _ = struct.unpack_from("<IIQQQQQQ", content, 64 + 56 * number)
        if kind == 4:
            return content[offset : offset + size]
    return b""


@pytest.mark.parametrize(
    ("machine", "name", "start", "order", "number"),
    [
        ("pc-i440fx-10.0", "pc.ram", 0, "<", 62),
        ("pc-q35-7.2", "pc.ram", 0, "<", 62),
        ("virt-10.0", "mach-virt.ram", _GIB, "<", 183),
        ("riscv-virt", "riscv_virt_board.ram", 2 * _GIB, "<", 243),
        ("s390-ccw-virtio-10.0", "s390.ram", 0, ">", 22),
    ],
)
def test_ram_begins_where_the_machine_has_it(
    tmp_path: Path, machine: str, name: str, start: int, order: str, number: int
) -> None:
    """It is a core of the architecture in its byte order, and has each page at its address."""
    guest = _guest(machine)
    core, told = _written(tmp_path, guest, name=name)
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    assert core.read_bytes()[:24] == ident + struct.pack(order + "HHI", 4, number, 1)
    assert read_segments(core) == told.segments
    assert [(one.address, one.size) for one in told.segments] == [(start, guest.ram.nbytes)]
    assert _memory(core, start, guest.ram.nbytes) == guest.ram.tobytes()
    assert (told.missing_pages, told.left_out) == (0, ("pc.rom",))


def test_headers_are_those_of_qemu(tmp_path: Path) -> None:
    """The rest of the ELF header, and a program header with the physical address as the virtual one, too."""
    core, _ = _written(tmp_path, _guest("virt-10.0"), name="mach-virt.ram")
    content = core.read_bytes()
    assert struct.unpack_from("<QQQIHHHHHH", content, 24) == (0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    kind, flags, offset, *rest = struct.unpack_from("<IIQQQQQQ", content, 64)
    assert (kind, flags, offset % PAGE, rest) == (1, 0, 0, [_GIB, _GIB, 256 * PAGE, 256 * PAGE, 0])


def test_ram_on_both_sides_of_the_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One RAMBlock is in two segments, and the CMOS agrees with the place of the split."""
    low, high = 100 * PAGE, 156 * PAGE
    both = MemoryMap("split", [Region(0, low, 0, 0), Region(4 * _GIB, high, 0, low)])
    monkeypatch.setattr(elf_core, "machine_map", lambda _index: both)
    guest = _guest()
    _put(guest, 99, b"the last page below")
    _put(guest, 100, b"the first page above")
    core, told = _written(tmp_path, guest, cmos=(0, 9))
    assert [(one.address, one.size) for one in told.segments] == [(0, low), (4 * _GIB, high)]
    assert _memory(core, 99 * PAGE, 19) == b"the last page below"
    assert _memory(core, 4 * _GIB, high) == guest.ram[100:].tobytes()


def test_zero_pages_are_holes(tmp_path: Path) -> None:
    """Only pages with data take room on the disk."""
    core, _ = _written(tmp_path, _guest())
    assert core.stat().st_size > 256 * PAGE
    assert core.stat().st_blocks * 512 < 60 * PAGE


@pytest.mark.parametrize("cmos", [(0, 1), (1, 0), (0, 16)])
def test_a_split_that_the_cmos_denies_is_refused(tmp_path: Path, cmos: tuple[int, int]) -> None:
    """The machine had other options, so no address is sure."""
    with pytest.raises(UsageError, match="does not lie as is usual there"):
        _written(tmp_path, _guest(), cmos=cmos)
    assert not (tmp_path / "core").exists()


def test_ram_of_a_memory_backend_needs_the_cmos(tmp_path: Path) -> None:
    """Another RAMBlock may be main memory or not; the CMOS tells by the sum."""
    with pytest.raises(UsageError, match="memory backend"):
        _written(tmp_path, _guest(), name="mem0")
    guest = _guest()
    core, told = _written(tmp_path, guest, name="mem0", cmos=(0, 0))
    assert _memory(core, 0, guest.ram.nbytes) == guest.ram.tobytes()
    assert told.left_out == ("pc.rom",)


@pytest.mark.parametrize(
    ("machine", "name", "message"),
    [
        ("isapc", "made-up.ram", "machine 'isapc', whose memory layout is not known here"),
        ("pseries-10.0", "ppc_spapr.ram", "machine 'pseries-10.0', whose guests can have either byte order"),
    ],
)
def test_machines_that_are_not_known_are_refused(
    tmp_path: Path, machine: str, name: str, message: str
) -> None:
    """One sentence says why, and no file is left."""
    with pytest.raises(UsageError, match=message):
        _written(tmp_path, _guest(machine), name=name)
    assert not (tmp_path / "core").exists()


@pytest.mark.parametrize("many", [65, 0])
def test_no_more_segments_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """A file decides neither how long the table of segments is, nor that it is empty."""
    regions = [Region(number * PAGE, PAGE, 0, number * PAGE) for number in range(many)]
    monkeypatch.setattr(elf_core, "machine_map", lambda _index: MemoryMap("many", regions))
    with pytest.raises(UsageError):
        _written(tmp_path, _guest())


def test_more_ram_than_has_one_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On some processors RAM of a terabyte begins elsewhere; the name of the machine does not tell."""
    assert (PC.most_ram, Q35.most_ram) == (1 << 39, 1 << 39)
    monkeypatch.setattr(elf_core, "elf_machine_of", lambda _type: X86_64.elf_machine)
    monkeypatch.setattr(elf_core, "type_of_machine", lambda _index: replace(PC, most_ram=256 * PAGE))
    _written(tmp_path, _guest())
    monkeypatch.setattr(elf_core, "type_of_machine", lambda _index: replace(PC, most_ram=256 * PAGE - 1))
    with pytest.raises(UsageError, match="1,048,576 bytes of RAM, whose layout is not known"):
        _written(tmp_path, _guest())


def test_vmcoreinfo_is_a_note(tmp_path: Path) -> None:
    """Its text goes into a note as the kernel makes it, and the release is told."""
    guest = _guest()
    _put(guest, 7, _INFO)
    core, told = _written(tmp_path, guest)
    padded = _INFO + bytes(-len(_INFO) % 4)
    assert _notes(core) == struct.pack("<III", 11, len(_INFO), 0) + b"VMCOREINFO\0\0" + padded
    assert (told.release, told.vmcoreinfos) == ("6.1.0-test", 1)
    assert "It has the vmcoreinfo of Linux 6.1.0-test." in told.sentences()
    assert _memory(core, 0, guest.ram.nbytes) == guest.ram.tobytes()


def test_vmcoreinfo_of_larger_pages(tmp_path: Path) -> None:
    """A kernel with larger pages has a longer text, which goes on in the next pages, up to 64 KiB."""
    guest = _guest()
    text = _INFO + b"A=1\n" * 3000
    _put(guest, 7, text)
    core, _ = _written(tmp_path, guest)
    assert _notes(core)[24 : 24 + len(text)] == text
    _put(guest, 7, _INFO + b"A=1\n" * 20000)
    (tmp_path / "core").unlink()
    assert _written(tmp_path, guest)[1].vmcoreinfos == 0


@pytest.mark.parametrize(
    "text",
    [
        b" " + _INFO,
        _INFO.replace(b"PAGESIZE", b"PAGESIZ_"),
        _INFO.replace(b"SYMBOL(", b"SYMBOL "),
        _INFO.replace(b"00\n", b"0\x1b\n"),
    ],
)
def test_what_is_no_vmcoreinfo(tmp_path: Path, text: bytes) -> None:
    """Pages that only begin like one, or have what no terminal should see, are none."""
    guest = _guest()
    _put(guest, 7, text)
    core, told = _written(tmp_path, guest)
    assert (_notes(core), told.release, told.vmcoreinfos) == (b"", "", 0)
    assert "RAM has no vmcoreinfo of Linux, so tools must be told which kernel it is." in told.sentences()


def test_of_two_kernels_none_is_chosen(tmp_path: Path) -> None:
    """A copy of the same text is no other one; a text of another kernel is, and more are not looked for."""
    guest = _guest()
    _put(guest, 7, _INFO)
    _put(guest, 9, _INFO)
    assert _written(tmp_path, guest)[1].vmcoreinfos == 1
    for page in range(10, 30):
        _put(guest, page, _INFO.replace(b"6.1", b"6.%d" % page))
    (tmp_path / "core").unlink()
    core, told = _written(tmp_path, guest)
    assert (_notes(core), told.release, told.vmcoreinfos) == (b"", "", 8)
    assert "RAM has 8 different vmcoreinfos of Linux, so none was taken." in told.sentences()


def test_sentences_name_what_is_not_in_it() -> None:
    """Missing pages are counted, and of the RAMBlocks eight are named."""
    names = tuple("abcdefghi")
    some = ElfCore((Segment(0, PAGE, PAGE),), "6.1", 1, 1234, names[:8])
    assert list(some.sentences())[1:] == [
        "1,234 pages that are missing in the file are zero in it.",
        "Not in it: a, b, c, d, e, f, g, h.",
    ]
    assert list(ElfCore((), "6.1", 1, 0, names).sentences())[1:] == [
        "Not in it: a, b, c, d, e, f, g, h, ....",
    ]
    assert len(list(ElfCore((), "6.1", 1, 0, ()).sentences())) == 1


def test_nothing_is_replaced_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is there stays, also behind a link; after a failure there is none."""
    path, core, victim = tmp_path / "vmstate", tmp_path / "core", tmp_path / "victim"
    path.write_bytes(Writer(_guest()).stream())
    core.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        write_elf_core(path, core)
    assert core.read_bytes() == b"mine"
    core.unlink()
    core.symlink_to(victim)
    with pytest.raises(UsageError, match="exists already"):
        write_elf_core(path, core)
    assert not victim.exists()
    core.unlink()

    def interrupted(*_rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(elf_core, "write_pages", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_elf_core(path, core)
    assert not core.exists()


def test_the_header_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all pages are there it is no ELF file."""
    path, core = tmp_path / "vmstate", tmp_path / "core"
    path.write_bytes(Writer(_guest()).stream())
    heads = []

    def watched(reader: PageReader, block: Block, descriptor: int, first_page: int) -> None:
        write_pages(reader, block, descriptor, first_page)
        heads.append(core.read_bytes()[:PAGE])

    monkeypatch.setattr(elf_core, "write_pages", watched)
    write_elf_core(path, core)
    assert heads == [bytes(PAGE)]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """A stream that ends before the end of RAM has no core."""
    path = tmp_path / "vmstate"
    path.write_bytes(Writer(_guest()).stream()[:9000])
    with pytest.raises(SnapshotWrong, match="cannot be written as an ELF core"):
        write_elf_core(path, tmp_path / "core")
