"""Contract: agent pages are where their directory pages say, and without these where they say themselves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, Protocol, cast

import numpy as np
import pytest

from guest_images.agent import pages as ap
from guest_images.agent.format import (
    DIRECTORY_ENTRIES,
    ControlWord,
    DataWord,
    DirectoryWord,
    PageWord,
    ThreadWord,
)
from harness.codes import Code
from tests_unit.support.synthetic_stream import NONCE, PAGE, Guest, Writer
from validators.oracles.o2_write_order import places as places_module
from validators.oracles.o2_write_order.places import AgentPlaces, find_places
from validators.oracles.o2_write_order.scan import AgentScan, DataPages, scan_agent
from validators.verdict import Tally
from validators.vmstate.memory_map import MemoryMap, Region
from validators.vmstate.pages import PageReader
from validators.vmstate.progress import WatchedSource
from validators.vmstate.stream.index import Block
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

_DIRECTORY, _THREAD = (10, 11), (4, 5)
_FRAMES = DirectoryWord.FRAMES


class Found(NamedTuple):
    """Where the pages of a guest were found, what was wrong, and what the file is read by."""

    places: AgentPlaces
    tally: Tally
    reader: PageReader
    scan: AgentScan


class Find(Protocol):
    """Finds the pages of a guest in its file."""

    def __call__(self, guest: Guest, rom: bytes = ...) -> Found:
        """Write the file with these bytes in its second RAMBlock, and read it."""


@pytest.fixture
def find(tmp_path: Path) -> Iterator[Find]:
    """Find the pages of a guest in its file, by the real reader."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def found(guest: Guest, rom: bytes = bytes(PAGE)) -> Found:
            path = tmp_path / f"file{next(numbers)}"
            path.write_bytes(Writer(guest, rom=rom).stream())
            opened = stack.enter_context(open_source(path))
            source = WatchedSource(opened.descriptor, path, lambda *_: None)
            reader, tally = PageReader(source, read_index(source)), Tally("write-order", "It demands.")
            scan = scan_agent(reader)
            return Found(find_places(reader, scan, scan.controls[0], tally), tally, reader, scan)

        yield found


def _changed(page: int, word: int, value: int, guest: Guest | None = None) -> Guest:
    """A guest with another word in a directory page, whose checksum is right."""
    guest = guest or Guest()
    guest.ram[page, word] = value
    guest.ram[page, DirectoryWord.CHECKSUM] = ap.checksum(guest.ram[page][None, :])[0]
    return guest


def _is_right(guest: Guest, places: AgentPlaces, lost: tuple[int, ...] = ()) -> None:
    for thread, count in enumerate(guest.counts):
        found = places.pages_of(thread, count)
        for index in range(count):
            place = guest.places[thread, index]
            if thread == 0 and index in lost:
                assert int(found.block[index]) == -1
                assert not found.intact[index]
                assert not found.header[index].any()
            else:
                assert (int(found.block[index]), int(found.page[index])) == (0, place), index
                assert bool(found.intact[index]) == bool(guest.ram[place].any())
                assert (found.header[index] == guest.ram[place, : DataWord.BODY]).all()


@pytest.mark.parametrize("steps", [(150, 77), (30, 0)])
@pytest.mark.parametrize("machine", ["pc-i440fx-10.0", "made-up"])
def test_each_page_is_found_with_its_header(find: Find, steps: tuple[int, int], machine: str) -> None:
    """By index; pages that were never written are no data pages, and have no header."""
    guest = Guest(steps=steps, machine=machine)
    found = find(guest)
    if machine == "made-up":
        # Without a rule of the machine type only written pages tell the address map.
        guest.counts = tuple(min(count, done) for count, done in zip(guest.counts, steps, strict=True))
    _is_right(guest, found.places)
    assert (found.tally.total, found.tally.facts) == (0, {"pages away from their directory place": 0})
    assert found.places.directory_counts == {0: 60, 1: 40}


@pytest.mark.parametrize("pages", [_DIRECTORY, _DIRECTORY[:1], _DIRECTORY[1:]])
def test_pages_without_a_directory_are_where_they_say(find: Find, pages: tuple[int, ...]) -> None:
    """Both threads' pages are found, in whichever of them the directory page is lost."""
    guest = Guest()
    guest.ram[list(pages)] = 0
    _is_right(guest, find(guest).places)


@pytest.mark.parametrize("index", [0, 1, 30, 59])
@pytest.mark.parametrize("frame", [0, 1 << 46, (1 << 46) - 1, (1 << 63) + 5, (1 << 64) - 1, 256, 1 << 20])
def test_frame_outside_of_ram(find: Find, index: int, frame: int) -> None:
    """An unknown frame or one that is not RAM is no place; the page is found by what it says of itself."""
    guest = _changed(_DIRECTORY[0], _FRAMES + index, frame)
    found = find(guest)
    _is_right(guest, found.places)
    assert found.tally.facts == {"pages away from their directory place": 1 if frame else 0}


@pytest.mark.parametrize("index", [0, 30, 59])
def test_page_that_nothing_names(find: Find, index: int) -> None:
    """Its frame is unknown and its content is not intact, so it has no place; the others have theirs."""
    guest = _changed(_DIRECTORY[0], _FRAMES + index, 0)
    guest.ram[guest.places[0, index], 300] ^= np.uint64(1)
    _is_right(guest, find(guest).places, lost=(index,))


@pytest.mark.parametrize("frame", [1, 255])
def test_first_and_last_page_of_ram_are_places(find: Find, frame: int) -> None:
    """A directory page may name any page of RAM; what is there is told, not where the page should be."""
    guest = _changed(_DIRECTORY[0], _FRAMES + 30, frame)
    found = find(guest)
    pages = found.places.pages_of(0, 60)
    assert (int(pages.block[30]), int(pages.page[30]), bool(pages.intact[30])) == (0, frame, False)
    assert found.tally.facts["pages away from their directory place"] == 1


def test_directory_is_believed_before_the_pages(find: Find) -> None:
    """Two pages in each other's place are found in their own place, with the other's header."""
    guest = Guest()
    first, second = guest.places[0, 5], guest.places[0, 6]
    guest.ram[[first, second]] = guest.ram[[second, first]]
    found = find(guest)
    pages = found.places.pages_of(0, 60)
    assert [int(page) for page in pages.page[5:7]] == [first, second]
    assert [int(index) for index in pages.header[5:7, DataWord.INDEX]] == [6, 5]
    assert found.tally.facts["pages away from their directory place"] == 2


def test_each_page_away_from_its_directory_place_is_counted(find: Find) -> None:
    """Of few pages all are asked, not a sample."""
    guest = Guest()
    frames = [guest.places[0, index] for index in range(20, 30)]
    guest.ram[frames] = guest.ram[np.roll(frames, 1)]
    assert find(guest).tally.facts["pages away from their directory place"] == 10


def test_more_or_fewer_pages_than_the_directory_lists(find: Find) -> None:
    """As many are returned as are asked for; those that nothing names have no place."""
    guest = Guest()
    found = find(guest).places
    assert len(found.pages_of(0, 10).block) == 10
    more = found.pages_of(0, 61)
    assert (int(more.block[60]), bool(more.intact[60])) == (-1, False)
    assert (found.pages_of(2, 3).block == -1).all()


@pytest.mark.parametrize("index", [60, 1 << 63])
def test_page_with_an_index_beyond_its_thread(find: Find, index: int) -> None:
    """An intact page may name an index that its thread does not have; it is no page of the thread."""
    guest = Guest()
    guest.ram[_DIRECTORY[0]] = 0
    one = [np.array([value], np.uint64) for value in (index, 1, 3)]
    guest.ram[195] = ap.data_pages(NONCE, 0, *one)[0]
    _is_right(guest, find(guest).places)


def test_page_behind_the_last_of_a_directory(find: Find) -> None:
    """An intact page that its thread's directory pages just do not list has no address by them."""
    guest = Guest()
    one = [np.array([value], np.uint64) for value in (60, 1, 3)]
    guest.ram[195] = ap.data_pages(NONCE, 0, *one)[0]
    found = find(guest)
    _is_right(guest, found.places)
    assert found.tally.facts["pages away from their directory place"] == 0


@pytest.mark.parametrize("most", [4, 5, 6])
def test_pages_that_describe_the_agent_are_bounded(
    find: Find, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Of the control page, two thread pages and two directory pages as many are kept as the limit allows."""
    monkeypatch.setattr("validators.oracles.o2_write_order.scan._MAX_SPECIAL", most)
    scan = find(Guest()).scan
    assert len(scan.controls) + len(scan.threads) + len(scan.directories) == min(most, 5)


def test_block_of_other_pages_has_no_agent_in_it(find: Find) -> None:
    """It is passed over; an agent's page in the next RAMBlock is found."""
    guest = Guest()
    reader = find(guest, rom=bytes(PAGE) + guest.ram[guest.places[0, 3]].tobytes()).reader
    first, second = reader.index.blocks
    index = replace(reader.index, blocks=(replace(first, page_size=2 * PAGE), second))
    scan = scan_agent(PageReader(reader.source, index))
    assert (scan.data.block.tolist(), scan.data.page.tolist()) == ([1], [1])
    assert scan.controls == scan.threads == scan.directories == ()


def test_pages_of_another_agent_are_none_of_this_one(find: Find) -> None:
    """An earlier agent may have left pages of the same numbers."""
    guest = Guest()
    guest.ram[_DIRECTORY[0]] = 0
    one = [np.array([value], np.uint64) for value in (7, 9, 999)]
    guest.ram[195] = ap.data_pages(NONCE + 1, 0, *one)[0]
    _is_right(guest, find(guest).places)


def test_zero_pages_of_the_stream(find: Find) -> None:
    """Those that the stream marks as zero, in their own RAMBlock."""
    guest = Guest(steps=(30, 0))
    places = find(guest).places
    found = places.pages_of(0, 60)
    assert places.is_zero_page(found).tolist() == [index >= 30 for index in range(60)]
    assert places.is_zero_page(places.pages_of(1, 40)).all()
    assert places.is_zero_page(replace(found, block=found.block + 1, page=found.page * 0)).all()
    assert not places.is_zero_page(replace(found, block=found.block - 1)).any()
    data = find(guest, rom=b"\xaa" * PAGE).places
    assert not data.is_zero_page(replace(found, block=found.block + 1, page=found.page * 0)).any()


def test_zero_page_is_told_by_the_sign_of_its_place() -> None:
    """Of places in the stream a negative one is that of a zero page, and 0 is none."""
    block = Block("pc.ram", 4 * PAGE, PAGE, np.array([-1, 0, 1, -(1 << 40)], np.int64), 0)
    reader = cast(PageReader, SimpleNamespace(index=SimpleNamespace(blocks=(block,))))
    none = np.zeros(0, np.int64)
    empty = DataPages(none, none, np.zeros((0, 6), np.uint64), none.astype(np.bool_))
    found = replace(empty, block=np.zeros(4, np.int64), page=np.arange(4))
    places = AgentPlaces(reader, empty, MemoryMap("made", ()), {}, {})
    assert places.is_zero_page(found).tolist() == [True, False, False, True]


@pytest.mark.parametrize("order", [(10, 12), (12, 10)])
def test_frames_of_several_directory_pages(find: Find, order: tuple[int, int]) -> None:
    """Each gives the frames of its own indexes, whichever comes first in RAM."""
    guest = Guest(machine="made-up")
    frames = [guest.places[0, index] for index in range(60)]
    guest.ram[10] = 0
    for page, first, end in ((order[0], 0, 25), (order[1], 25, 60)):
        guest._directory(page, 0, first, frames[first:end])
    # So that only the directory page can tell the place.
    guest.ram[frames[30], 300] ^= np.uint64(1)
    places = find(guest).places
    assert places.directory_counts[0] == 60
    found = places.pages_of(0, 60)
    assert found.page.tolist() == frames
    assert not found.intact[30]


@pytest.mark.parametrize(
    ("word", "value", "bad"),
    [
        (DirectoryWord.COUNT, DIRECTORY_ENTRIES, True),
        (DirectoryWord.COUNT, 60, False),
        (DirectoryWord.THREAD, 2, True),
        (DirectoryWord.THREAD, 1 << 63, True),
        (DirectoryWord.THREAD, 1, False),
        (DirectoryWord.FIRST_INDEX, 1 << 63, True),
        (DirectoryWord.FIRST_INDEX, 197, False),
        (DirectoryWord.FIRST_INDEX, 198, True),
    ],
)
def test_directory_page_that_cannot_be(find: Find, word: int, value: int, bad: bool) -> None:
    """No thread that is not there, and not more pages than the file has: 257. It is named with its place."""
    guest = Guest()
    guest.ram[_DIRECTORY[1]] = 0
    tally = find(_changed(_DIRECTORY[0], word, value, guest)).tally
    assert [(found.code, found.offset, found.thread) for found in tally.violations] == (
        [(Code.WRITE_ORDER_BAD_DIRECTORY_PAGE, 10 * PAGE, value if word == DirectoryWord.THREAD else 0)]
        if bad
        else []
    )


@pytest.mark.parametrize(("count", "bad"), [(DIRECTORY_ENTRIES, False), (DIRECTORY_ENTRIES + 1, True)])
def test_most_entries_of_a_directory_page(find: Find, count: int, bad: bool) -> None:
    """500 frames are as many as the agent lists in one page."""
    guest = Guest(ram_pages=1024)
    tally = find(_changed(_DIRECTORY[0], DirectoryWord.COUNT, count, guest)).tally
    assert bool(tally.violations) == bad


def test_each_directory_page_that_cannot_be_is_named(find: Find) -> None:
    """One does not hide the next, nor is a right one behind it left out."""
    guest = Guest()
    guest.ram[_DIRECTORY[0], 5] = 1
    guest.ram[12], guest.ram[13] = guest.ram[_DIRECTORY[0]], guest.ram[_DIRECTORY[1]]
    guest.ram[_DIRECTORY[1], 5] = 1
    found = find(guest)
    assert [violation.offset for violation in found.tally.violations] == [10 * PAGE, 11 * PAGE, 12 * PAGE]
    assert found.places.directory_counts == {1: 40}


def test_pages_of_all_threads_are_not_more_than_the_file_has(find: Find) -> None:
    """Two directory pages that are possible each on its own, but not together; the second is named."""
    guest = _changed(_DIRECTORY[0], DirectoryWord.FIRST_INDEX, 157)
    assert find(guest).tally.violations == []
    (found,) = find(_changed(_DIRECTORY[0], DirectoryWord.FIRST_INDEX, 158)).tally.violations
    assert (found.code, found.offset, found.thread) == (
        Code.WRITE_ORDER_BAD_DIRECTORY_PAGE, _DIRECTORY[1] * PAGE, 1,
    )  # fmt: skip


def test_copies_of_a_directory_page_do_not_count_twice(find: Find) -> None:
    """The kernel may leave old copies behind in free memory, as many as there is room for."""
    guest = Guest(counts=(100, 40))
    for copy in range(231, 250):
        guest.ram[copy] = guest.ram[_DIRECTORY[0]]
    assert find(guest).tally.violations == []


def test_directory_page_of_another_agent_hides_none(find: Find) -> None:
    """That of this agent is read, also behind it."""
    guest = Guest()
    guest.ram[_DIRECTORY[0], PageWord.NONCE] += np.uint64(1)
    found = find(guest)
    assert (found.places.directory_counts, found.tally.total) == ({1: 40}, 0)


@pytest.mark.parametrize("bit", [0, 63])
@pytest.mark.parametrize("word", [PageWord.NONCE, 5, 7, _FRAMES, _FRAMES + 100, DirectoryWord.CHECKSUM])
def test_directory_page_of_another_checksum(find: Find, word: int, bit: int) -> None:
    """Any wrong bit of it is found; with another nonce it is no page of this agent."""
    guest = Guest()
    guest.ram[_DIRECTORY[1], word] ^= np.uint64(1 << bit)
    found = find(guest)
    assert [violation.thread for violation in found.tally.violations] == (
        [] if word == PageWord.NONCE else [1]
    )
    _is_right(guest, found.places)


@pytest.mark.parametrize(("steps", "live"), [(149, 4), (150, 4), (151, 195)])
def test_live_thread_page_is_the_one_with_more_steps(find: Find, steps: int, live: int) -> None:
    """The kernel may have moved the page and left its old copy behind."""
    guest = Guest()
    guest.ram[195] = guest.ram[4]
    guest.ram[195, ThreadWord.STEPS] = steps
    assert {thread: page.page for thread, page in find(guest).places.thread_pages.items()} == {0: live, 1: 5}


@pytest.mark.parametrize(
    ("word", "value"), [(PageWord.NONCE, 5), (ThreadWord.NUMBER, 2), (ThreadWord.NUMBER, 1 << 63)]
)
@pytest.mark.parametrize("thread", [0, 1])
def test_thread_page_of_no_thread_of_this_agent(find: Find, word: int, value: int, thread: int) -> None:
    """It is of an earlier agent, or its number is not below that of the control page; the other is right."""
    guest = Guest()
    guest.ram[_THREAD[thread], word] = value
    assert set(find(guest).places.thread_pages) == {1 - thread}


def test_address_map_is_told_by_a_sample(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many pages each n-th is asked; the map is the same."""
    guest = Guest(machine="made-up")
    monkeypatch.setattr(places_module, "_MAX_SIGHTINGS", 30)
    found = find(guest)
    frames = [guest.places[0, index] for index in range(60)]
    inside = found.places.pages_of(0, 60)
    assert inside.page.tolist() == frames
    assert found.places.memory.rule == "self-identification"


def test_regions_with_an_offset(find: Find) -> None:
    """Guest-physical addresses are translated by the region that they lie in, up to its last page."""
    guest = Guest()
    _, _, reader, scan = find(guest)
    order = sorted(guest.places.values())
    first, middle, end = order[0] * PAGE, order[50] * PAGE, (order[-1] + 1) * PAGE
    shift = 1 << 32
    memory = MemoryMap(
        "made", (Region(first, middle - first, 0, first), Region(middle + shift, end - middle, 0, middle))
    )
    frames = {
        thread: np.array(
            [
                place + (shift // PAGE if place >= order[50] else 0)
                for index in range(count)
                for place in [guest.places[thread, index]]
            ]
        )
        for thread, count in enumerate(guest.counts)
    }
    # No page is found by what it says of itself.
    damaged = replace(scan.data, intact=np.zeros(len(scan.data.page), np.bool_))
    places = AgentPlaces(reader, damaged, memory, {}, frames)
    for thread, count in enumerate(guest.counts):
        found = places.pages_of(thread, count)
        assert found.page.tolist() == [guest.places[thread, index] for index in range(count)]
        assert (found.block == 0).all()


@pytest.mark.parametrize("copies", [1, 2, 15])
def test_copy_elsewhere(find: Find, copies: int) -> None:
    """One intact copy in another place is named, however many there are; its own place is none."""
    guest = Guest()
    place = guest.places[0, 3]
    for number in range(copies):
        guest.ram[231 + number] = guest.ram[place]
    places = find(guest).places
    sentence = places.elsewhere(0, 3, 0, place)
    assert sentence in {
        f" A copy of that page is at 0x{(231 + number) * PAGE:x} of RAMBlock 'pc.ram'."
        for number in range(copies)
    }
    assert places.elsewhere(0, 4, 0, guest.places[0, 4]) == ""


def test_copy_in_another_block(find: Find) -> None:
    """A page of the same number in another RAMBlock is another place."""
    guest = Guest()
    rom = bytes(PAGE) + guest.ram[guest.places[1, 3]].tobytes()
    places = find(guest, rom=rom).places
    assert places.elsewhere(1, 3, 0, guest.places[1, 3]) == (
        f" A copy of that page is at 0x{PAGE:x} of RAMBlock 'pc.rom'."
    )
    assert places.elsewhere(1, 3, 0, 1) != ""
    # The page itself, asked for from where it is not.
    assert "'pc.ram'" in places.elsewhere(1, 3, 1, 1)


def test_damaged_copy_is_none(find: Find) -> None:
    """Only an intact page is a copy; one of another thread, index or agent is none either."""
    guest = Guest()
    place = guest.places[0, 3]
    one = [np.array([value], np.uint64) for value in (3, 3, 123)]
    guest.ram[231] = guest.ram[place]
    guest.ram[231, 300] ^= np.uint64(1)
    guest.ram[232] = ap.data_pages(NONCE + 1, 0, *one)[0]
    assert find(guest).places.elsewhere(0, 3, 0, place) == ""
    assert find(guest).places.elsewhere(7, 3, 0, place) == ""


def test_page_of_the_same_hash_is_no_copy(find: Find) -> None:
    """A hostile file can have one; no page of another thread and of the same index is one either."""
    guest = Guest()
    hash_of = {thread: int(ap.mix(np.array([thread], np.uint64))[0]) for thread in (0, 9)}
    one = [np.array([value], np.uint64) for value in (hash_of[0] ^ 3 ^ hash_of[9], 3, 123)]
    guest.ram[231] = ap.data_pages(NONCE, 9, *one)[0]
    places = find(guest).places
    for thread, count in enumerate(guest.counts):
        for index in range(count):
            assert places.elsewhere(thread, index, 0, guest.places[thread, index]) == ""


def test_no_page_of_the_agent_is_left(find: Find) -> None:
    """All data pages are lost: no place is found but those that the directory pages name."""
    guest = Guest()
    guest.ram[list(guest.places.values())] = 0
    places, _, _, scan = find(guest)
    assert (scan.data.header.shape, len(scan.data.intact)) == ((0, DataWord.BODY), 0)
    found = places.pages_of(0, 60)
    assert found.page.tolist() == [guest.places[0, index] for index in range(60)]
    assert not found.intact.any()
    assert places.elsewhere(0, 3, 0, 0) == ""


def test_control_page_with_fewer_threads(find: Find) -> None:
    """A directory page of a thread that is not counted is not believed."""
    guest = Guest()
    guest.ram[3, ControlWord.THREADS] = 1
    found = find(guest)
    assert set(found.places.directory_counts) == {0}
    assert [violation.thread for violation in found.tally.violations] == [1]
