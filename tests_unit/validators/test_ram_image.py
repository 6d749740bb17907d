"""Contract: guest RAM without a stream is judged by the write order, and says what was not judged."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from guest_images.agent.format import PageWord
from harness.codes import Code
from harness.errors import UsageError
from harness.status import Status
from tests_unit.support.elf_files import elf_core
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer
from validators.judge import check_file
from validators.verdict import CheckResult, Verdict
from validators.vmstate import ram_image
from validators.vmstate.stream.source import open_source

_RAM_START = 0x80000000


def _flat(guest: Guest) -> bytes:
    return guest.ram.astype("<u8").tobytes()


def _halves(guest: Guest, hole: int = 0) -> list[tuple[int, bytes]]:
    """Return the guest's RAM as two segments, with a hole in addresses between them."""
    ram = _flat(guest)
    middle = len(ram) // 2
    return [(0, ram[:middle]), (middle + hole, ram[middle:])]


def _judge(tmp_path: Path, content: bytes, raw: bool = False, offset: int = 0) -> Verdict:
    path = tmp_path / "image"
    path.write_bytes(content)
    return check_file(path, raw=raw, offset=offset)


def _order(verdict: Verdict) -> CheckResult:
    order = verdict.check("write-order")
    assert order is not None
    return order


def _newer(guest: Guest) -> tuple[int, int]:
    """Make a page one of a later step; return its index in thread 0 and its place."""
    schedule = guest.schedule(0)
    index = next(one for one in range(60) if schedule.state(150)[0][one] > 0 and one != 150 % 60)
    place = guest.places[0, index]
    later = Guest(steps=(150 + 300, 77))
    guest.ram[place] = later.ram[later.places[0, index]]
    return index, place


@pytest.mark.parametrize("raw", [True, False])
def test_image_of_one_moment_passes_and_says_what_was_not_judged(tmp_path: Path, raw: bool) -> None:
    """A reader must not take the verdict for that on a whole snapshot."""
    guest = Guest()
    verdict = _judge(tmp_path, _flat(guest) if raw else elf_core(_halves(guest)), raw)
    structure, order = verdict.checks
    assert (order.name, order.status, order.facts["pages verified"]) == ("write-order", Status.PASS, 100)
    assert (structure.name, structure.status) == ("structure", Status.SKIP)
    assert "state of devices" in structure.reason and "were not judged" in structure.reason
    assert verdict.facts["file"] == ("raw image of guest RAM" if raw else "ELF core")
    assert verdict.facts["pieces of RAM"] == (1 if raw else 2)
    assert verdict.facts["RAM bytes"] == guest.ram_pages * PAGE
    assert verdict.facts["agent pages judged"] == 100
    assert verdict.status is Status.PASS


@pytest.mark.parametrize("raw", [True, False])
def test_page_of_another_moment_is_named(tmp_path: Path, raw: bool) -> None:
    """By its place in the piece of RAM, in the file, and in the guest's addresses."""
    guest = Guest()
    _, place = _newer(guest)
    content = _flat(guest) if raw else elf_core(_halves(guest))
    order = _order(_judge(tmp_path, content, raw))
    (found,) = order.violations
    assert (order.status, found.code, found.gpa) == (Status.FAIL, Code.WRITE_ORDER_NEWER, place * PAGE)
    half = guest.ram_pages // 2
    assert found.block == ("raw image" if raw else f"segment {place // half}")
    assert found.offset == (place if raw else place % half) * PAGE
    assert found.file_offset is not None
    assert content[found.file_offset :][:PAGE] == guest.ram[place].astype("<u8").tobytes()


def _moved(guest: Guest, place: int, target: int) -> None:
    guest.ram[target], guest.ram[place] = guest.ram[place].copy(), 0


def test_first_page_of_a_raw_image_is_read(tmp_path: Path) -> None:
    """Offset 0 stands for a missing page in a stream, and for the first page of RAM here."""
    guest = Guest()
    _moved(guest, guest.control_page, 0)
    assert _order(_judge(tmp_path, _flat(guest), raw=True)).status is Status.PASS
    guest = Guest()
    _moved(guest, guest.places[1, 3], 0)
    order = _order(_judge(tmp_path, _flat(guest), raw=True))
    # A page that lies elsewhere than its directory says is found there, and its own place is empty.
    assert [one.code for one in order.violations] == [Code.WRITE_ORDER_ZERO]
    assert "A copy of that page is at 0x0 " in order.violations[0].sentence


def test_directory_addresses_are_those_of_the_core(tmp_path: Path) -> None:
    """A core with a hole in its addresses is read by them; agent pages in it tell the same of a raw image."""
    guest = Guest()
    for page in (10, 11):
        words = guest.ram[page]
        assert words[PageWord.MAGIC]
    shifted = [(_RAM_START + address, content) for address, content in _halves(guest)]
    order = _order(_judge(tmp_path, elf_core(shifted)))
    assert order.status is Status.PASS and order.facts["address map"] == "self-identification"
    order = _order(_judge(tmp_path, elf_core(_halves(guest))))
    assert order.facts["address map"] == "addresses in the ELF core"
    assert _order(_judge(tmp_path, _flat(guest), raw=True)).facts["address map"] == "self-identification"


def test_core_of_a_process_is_read_by_the_pages_themselves(tmp_path: Path) -> None:
    """All its segments have the physical address 0."""
    guest = Guest()
    segments = [(0, content) for _, content in _halves(guest)]
    order = _order(_judge(tmp_path, elf_core(segments)))
    assert order.status is Status.PASS and order.facts["address map"] == "self-identification"


@pytest.mark.parametrize("raw", [True, False])
def test_image_at_an_offset(tmp_path: Path, raw: bool) -> None:
    """A header of another VMM is passed over, of any length."""
    guest = Guest()
    _, place = _newer(guest)
    content = _flat(guest) if raw else elf_core(_halves(guest))
    (found,) = _order(_judge(tmp_path, b"h" * 999 + content, raw, offset=999)).violations
    assert found.gpa == place * PAGE and found.file_offset is not None
    assert (b"h" * 999 + content)[found.file_offset :][:PAGE] == guest.ram[place].astype("<u8").tobytes()


def test_parts_of_pages_are_left_out(tmp_path: Path) -> None:
    """A kernel's core has segments that begin and end inside a page."""
    ram = _flat(Guest())
    order = _order(_judge(tmp_path, elf_core([(100, ram[100:-7])])))
    assert order.status is Status.PASS and order.facts["pages verified"] == 100


def test_image_that_lacks_pages_fails(tmp_path: Path) -> None:
    """A whole number of pages is no proof that the file is whole; the agent's directory is."""
    guest = Guest()
    order = _order(_judge(tmp_path, _flat(guest)[: 150 * PAGE], raw=True))
    assert order.status is Status.FAIL
    assert {one.code for one in order.violations} == {Code.WRITE_ORDER_NOT_FOUND}


@pytest.mark.parametrize("raw", [True, False])
def test_image_without_an_agent_is_refused(tmp_path: Path, raw: bool) -> None:
    """Nothing in it was judged, so it neither passes nor fails."""
    guest = Guest(agent=False)
    content = _flat(guest) if raw else elf_core(_halves(guest))
    with pytest.raises(UsageError, match="has no page of snapproof's agent"):
        _judge(tmp_path, content, raw)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_flat(Guest())[:-1], "no whole number of pages"),
        (Writer(Guest()).stream(), "is a vmstate stream and no raw image"),
        (b"LibvirtQemudSave" + bytes(PAGE - 16), "is a vmstate stream and no raw image"),
        (elf_core([(0, bytes(PAGE))]), "is an ELF core and no raw image"),
    ],
)
def test_what_is_no_raw_image_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """By its size, or since it is something else."""
    with pytest.raises(UsageError, match=words):
        _judge(tmp_path, content, raw=True)


def test_offset_behind_the_end_is_refused(tmp_path: Path) -> None:
    """There is no page."""
    with pytest.raises(UsageError, match="has 0 bytes from offset"):
        _judge(tmp_path, _flat(Guest()), raw=True, offset=257 * PAGE)


@pytest.mark.parametrize("option", ["golden", "snapshot"])
def test_options_of_a_stream_are_refused(tmp_path: Path, option: str) -> None:
    """They would be passed over without a word."""
    path = tmp_path / "image"
    path.write_bytes(_flat(Guest()))
    with pytest.raises(UsageError, match="leave out --golden and --snapshot"):
        if option == "golden":
            check_file(path, raw=True, golden=path)
        else:
            check_file(path, raw=True, snapshot="name")


def _segment(core: bytes, number: int, **values: int) -> bytes:
    """Change fields of an entry in the table of a core of 64 bits."""
    at = 64 + 56 * number
    names = ("kind", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")
    fields = dict(zip(names, struct.unpack_from("<IIQQQQQQ", core, at), strict=True)) | values
    return core[:at] + struct.pack("<IIQQQQQQ", *fields.values()) + core[at + 56 :]


_CORE = elf_core(_halves(Guest()))
_HALF = 128 * PAGE


@pytest.mark.parametrize(
    ("core", "words"),
    [
        (_CORE[:-1], "is cut: a segment ends at byte .* was not judged"),
        (_segment(_CORE, 1, offset=(1 << 64) - 1), "is cut"),
        (_segment(_CORE, 2, filesz=(1 << 64) - 1), "is cut"),
        (_segment(_CORE, 1, offset=len(_CORE) - _HALF), "two segments share the bytes"),
        (_CORE[:32] + b"\xff" * 8 + _CORE[40:], "no table of segments"),
        (_CORE[:54] + b"\xff\xff" + _CORE[56:], "no table of segments"),
        (_CORE[:56] + b"\xff\xff" + _CORE[58:], "no table of segments"),
        (_CORE[:18], "no table of segments"),
        (elf_core([]), "not one whole page"),
        (elf_core([(1, bytes(PAGE))]), "not one whole page"),
        (elf_core([(0, b"x")] * 1025), "has 1025 segments"),
    ],
)
def test_hostile_header_is_refused(tmp_path: Path, core: bytes, words: str) -> None:
    """Before anything is read or allocated by it."""
    with pytest.raises(UsageError, match=words):
        _judge(tmp_path, core)


def test_addresses_no_guest_has_are_not_used(tmp_path: Path) -> None:
    """A kernel's core has segments of virtual memory whose physical address is -1."""
    core = _segment(_CORE, 2, paddr=(1 << 64) - PAGE)
    order = _order(_judge(tmp_path, core))
    assert order.status is Status.PASS and order.facts["address map"] == "self-identification"


def _addresses(tmp_path: Path, *segments: tuple[int, int]) -> list[int | None]:
    """Return the addresses of a core's blocks; each segment is an address and a number of pages."""
    path = tmp_path / "core"
    path.write_bytes(elf_core([(address, bytes(pages * PAGE)) for address, pages in segments]))
    with open_source(path) as source:
        index, _ = ram_image.index_of_image(source, 0, raw=False)
        return [block.gpa for block in index.blocks]


def test_addresses_are_used_only_if_they_can_be_those_of_a_guest(tmp_path: Path) -> None:
    """No page is at two of them, and none is above what a processor has."""
    assert _addresses(tmp_path, (2 * PAGE, 1), (0, 2)) == [2 * PAGE, 0]
    assert _addresses(tmp_path, (PAGE, 1), (0, 2)) == [None, None]
    assert _addresses(tmp_path, ((1 << 56) - 2 * PAGE, 1)) == [(1 << 56) - 2 * PAGE]
    assert _addresses(tmp_path, ((1 << 56) - PAGE, 1)) == [None]


def test_segment_without_a_whole_page_hides_no_other(tmp_path: Path) -> None:
    """It is left out alone; one of a single page is read."""
    guest = Guest()
    ram = _flat(guest)
    verdict = _judge(tmp_path, elf_core([(1 << 30, b"x" * 9), (0, ram[:PAGE]), (PAGE, ram[PAGE:])]))
    assert verdict.status is Status.PASS and verdict.facts["pieces of RAM"] == 2
    assert verdict.facts["RAM bytes"] == guest.ram_pages * PAGE


def test_core_that_is_cut_at_an_offset(tmp_path: Path) -> None:
    """Its size is counted from the offset."""
    with pytest.raises(UsageError, match="is cut"):
        _judge(tmp_path, b"h" * 999 + _CORE[:-1], offset=999)


def test_memory_that_is_not_in_the_core_is_counted(tmp_path: Path) -> None:
    """It costs no memory, and is no page of zeros."""
    core = _segment(_CORE, 2, memsz=1 << 60)
    verdict = _judge(tmp_path, core)
    assert verdict.facts["bytes of memory that are not in the core"] == (1 << 60) - _HALF
    assert verdict.status is Status.PASS


def test_size_of_ram_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of exabytes costs nothing on disk, and each of its pages 8 bytes of memory."""
    for raw in (True, False):
        content = _flat(Guest()) if raw else _CORE
        monkeypatch.setattr(ram_image, "_MOST_BYTES", 256 * PAGE)
        assert _judge(tmp_path, content, raw).status is Status.PASS
        monkeypatch.setattr(ram_image, "_MOST_BYTES", 256 * PAGE - 1)
        with pytest.raises(UsageError, match=r"has 1048576 bytes of RAM"):
            _judge(tmp_path, content, raw)
