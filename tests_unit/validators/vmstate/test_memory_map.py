"""Contract: addresses become places in RAMBlocks by the machine's rule, or as the agent's pages show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests_unit.support.synthetic_stream import PAGE, Guest, Writer
from validators.vmstate.memory_map import MemoryMap, Region, Sightings, best_map
from validators.vmstate.stream.index import SnapshotIndex
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
