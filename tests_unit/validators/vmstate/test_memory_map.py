"""Contract: addresses become places in RAMBlocks by the machine's rule, or as the agent's pages show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests_unit.support.synthetic_stream import PAGE, Guest, Writer
from validators.vmstate import memory_map
from validators.vmstate.memory_map import MemoryMap, Region, Sightings, best_map, machine_map
from validators.vmstate.stream.index import Block, Configuration, Duplicates, SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

_REGIONS = st.lists(
    st.builds(Region, st.integers(0, 60), st.integers(1, 30), st.integers(0, 3), st.integers(0, 90)),
    max_size=5,
)


@given(_REGIONS, st.lists(st.integers(0, 99)))
def test_many_addresses_are_placed_as_each_alone(regions: list[Region], addresses: list[int]) -> None:
    """`places` gives for each address what `place` gives, also where regions overlap."""
    memory = MemoryMap("any", regions)
    blocks, offsets = memory.places(np.array(addresses, np.int64))
    pairs = zip(blocks.tolist(), offsets.tolist(), strict=True)
    assert list(pairs) == [memory.place(address) or (-1, -1) for address in addresses]


def _index(tmp_path: Path, machine: str) -> SnapshotIndex:
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest(machine=machine)).stream())
    with open_source(path) as source:
        return read_index(source)


def _seen(pages: int, gpa: int, block: int = 0, offset: int = 0) -> Sightings:
    """Agent pages that follow one another, in bytes."""
    bytes_on = np.arange(pages) * PAGE
    return Sightings(gpa + bytes_on, np.full(pages, block), offset + bytes_on)


def _together(*parts: Sightings) -> Sightings:
    return Sightings(
        np.concatenate([part.gpa for part in parts]),
        np.concatenate([part.block for part in parts]),
        np.concatenate([part.offset for part in parts]),
    )


def test_a_machine_without_a_rule_is_learned_from_its_pages(tmp_path: Path) -> None:
    """Each range begins at its first page and ends behind its last, at the distance that they agree on."""
    index = _index(tmp_path, "made-up-1.0")
    low, high = _seen(40, 16 * PAGE), _seen(60, 1 << 32, offset=100 * PAGE)
    memory, disagreeing = best_map(index, _together(low, high))
    assert set(memory.regions) == {
        Region(16 * PAGE, 40 * PAGE, 0, 0),
        Region(1 << 32, 60 * PAGE, 0, 100 * PAGE),
    }
    assert disagreeing == 0


def test_fewer_than_two_percent_of_the_pages_make_no_range(tmp_path: Path) -> None:
    """One page of a hundred that is elsewhere is a page in the wrong place; two are a range of their own."""
    index, lost = _index(tmp_path, "made-up-1.0"), 1 << 40
    one, wrong = best_map(index, _together(_seen(99, 0), _seen(1, lost)))
    two, right = best_map(index, _together(_seen(98, 0), _seen(2, lost)))
    assert (one.place(lost), wrong) == (None, 1)
    assert (two.place(lost), right) == ((0, 0), 0)


def test_the_rule_of_the_machine_holds_unless_most_pages_contradict_it(tmp_path: Path) -> None:
    """Half of the pages in other places are wrong pages; more than half contradict the rule."""
    index = _index(tmp_path, "pc-i440fx-10.0")
    half, wrong = best_map(index, _together(_seen(50, 0), _seen(50, 1 << 40)))
    most, right = best_map(index, _together(_seen(49, 0), _seen(51, 1 << 40)))
    assert (half.rule, wrong) == ("i440fx", 50)
    assert (most.rule, right) == ("self-identification", 0)


_MIB, _GIB = 1 << 20, 1 << 30


def _sized(machine: str, *blocks: tuple[str, int]) -> SnapshotIndex:
    """An index with RAMBlocks of these lengths, of which no page is read."""
    empty = np.zeros(0, np.int64)
    none = Duplicates(empty, empty, empty, empty, np.zeros(0, np.bool_))
    found = tuple(
        Block(name, size, PAGE, np.broadcast_to(np.int64(0), size // PAGE)) for name, size in blocks
    )
    return SnapshotIndex(
        0,
        0,
        None,
        PAGE,
        Configuration(True, machine),
        found,
        (),
        (),
        none,
        {},
        None,
        None,
        (),
        {},
        None,
        True,
        {},
    )


_PC, _Q35 = "pc-i440fx-10.0", "pc-q35-10.0"


@pytest.mark.parametrize(
    ("machine", "blocks", "regions"),
    [
        (_PC, [("pc.ram", _GIB)], [(0, _GIB, 0, 0)]),
        (_PC, [("pc.ram", 0xE0000000 - PAGE)], [(0, 0xE0000000 - PAGE, 0, 0)]),
        (_PC, [("pc.ram", 0xE0000000)], [(0, 0xC0000000, 0, 0), (4 * _GIB, 0x20000000, 0, 0xC0000000)]),
        (_PC, [("pc.ram", 5 * _GIB)], [(0, 3 * _GIB, 0, 0), (4 * _GIB, 2 * _GIB, 0, 3 * _GIB)]),
        (_Q35, [("pc.ram", 0xB0000000 - PAGE)], [(0, 0xB0000000 - PAGE, 0, 0)]),
        (_Q35, [("pc.ram", 0xB0000000)], [(0, 2 * _GIB, 0, 0), (4 * _GIB, 0x30000000, 0, 2 * _GIB)]),
        ("virt-10.0", [("mach-virt.ram", _GIB)], [(_GIB, _GIB, 0, 0)]),
        ("virt", [("riscv_virt_board.ram", _GIB)], [(2 * _GIB, _GIB, 0, 0)]),
        ("virt", [("other", _GIB)], [(_GIB, _GIB, 0, 0)]),
        (_PC, [("vga.vram", _MIB), ("pc.ram", _GIB), ("mem1", _GIB)], [(0, _GIB, 1, 0)]),
        (
            _PC,
            [("node0", 2 * _GIB), ("pc.bios", _MIB), ("node1", 2 * _GIB)],
            [(0, 2 * _GIB, 0, 0), (2 * _GIB, _GIB, 2, 0), (4 * _GIB, _GIB, 2, _GIB)],
        ),
        (
            _PC,
            [("node0", 3 * _GIB), ("/dev/x", _MIB), ("VGA.vram", _MIB), ("node1", _GIB)],
            [(0, 3 * _GIB, 0, 0), (4 * _GIB, _GIB, 3, 0)],
        ),
    ],
)
def test_memory_lies_where_the_machine_puts_it(
    machine: str, blocks: list[tuple[str, int]], regions: list[tuple[int, int, int, int]]
) -> None:
    """pc_init1(), pc_q35_init() and base_memmap of QEMU 10.0; nodes follow one another in their order."""
    memory = machine_map(_sized(machine, *blocks))
    assert memory is not None
    assert memory.regions == tuple(Region(*region) for region in regions)


def test_a_machine_of_another_name_has_no_rule() -> None:
    """Its map is learned."""
    assert machine_map(_sized("isapc", ("pc.ram", _GIB))) is None


@given(_REGIONS, st.integers(0, 3), st.integers(0, 130))
def test_an_address_leads_back_to_its_place(regions: list[Region], block: int, offset: int) -> None:
    """The first region that has the place says where it is."""
    found = MemoryMap("any", regions).address(block, offset)
    inside = [one for one in regions if one.block == block and 0 <= offset - one.offset < one.length]
    assert found == (inside[0].gpa + offset - inside[0].offset if inside else None)


def test_memory_that_the_rule_does_not_place_is_learned(tmp_path: Path) -> None:
    """Memory that was plugged in later; of RAMBlocks with a rule nothing is learned."""
    index = _index(tmp_path, _PC)
    plugged = _seen(40, 8 * _GIB, block=1)
    memory, wrong = best_map(index, _together(_seen(60, 0), plugged))
    assert (memory.rule, wrong) == ("i440fx", 0)
    assert memory.place(8 * _GIB + PAGE) == (1, PAGE)
    assert [region.block for region in memory.regions] == [0, 1]


def test_few_ranges_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that most pages agree on."""
    monkeypatch.setattr(memory_map, "_MOST_REGIONS", 2)
    parts = [_seen(pages, _GIB * (pages + 1), offset=pages * 100 * PAGE) for pages in (20, 40, 30)]
    memory, wrong = best_map(_index(tmp_path, "made-up-1.0"), _together(*parts))
    assert [region.length // PAGE for region in memory.regions] == [40, 30]
    assert wrong == 20


@pytest.mark.parametrize(("block", "offset"), [(0, 6 * PAGE), (1, 5 * PAGE), (1, 6 * PAGE)])
def test_a_page_in_another_block_or_at_another_offset_disagrees(
    tmp_path: Path, block: int, offset: int
) -> None:
    """Either is a page that the guest would not find at its address."""
    _, wrong = best_map(_index(tmp_path, _PC), _together(_seen(80, 0), _seen(1, 5 * PAGE, block, offset)))
    assert wrong == 1
