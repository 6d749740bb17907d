"""Contract: a map of RAM shows each bad page in its place, and no cell that has one as empty."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from harness.qemu.architectures import TARGET_PAGE_BYTES as PAGE
from validators.page_map import svg_map, terminal_map

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("pages", "bar"),
    [
        ([0], "▒···"),
        ([3], "▒···"),
        ([4], "·▒··"),
        ([15], "···▒"),
        ([0, 0, 0, 0], "▒···"),
        ([0, 1], "▓···"),
        ([0, 1, 2], "█···"),
        ([0, 1, 2, 3], "█···"),
        ([0, 4, 8, 12, 13], "▒▒▒▓"),
    ],
)
def test_shade_of_a_cell_is_its_share_of_bad_pages(pages: list[int], bar: str) -> None:
    """A bar of 4 cells for 16 pages: a quarter, a half and three quarters of a cell have their own shades."""
    drawn = terminal_map({"pc.ram": 16 * PAGE}, {"pc.ram": [page * PAGE for page in pages]}, width=4)
    assert drawn == f"{'pc.ram':>24}      0 MiB |{bar}| {len(set(pages))} bad"


def test_shades_of_parts_of_five_pages() -> None:
    """Less than a quarter, from a quarter on, from half on, from three quarters on."""
    bad = [cell * 5 + number for cell in range(5) for number in range(cell + 1)]
    drawn = terminal_map({"pc.ram": 25 * PAGE}, {"pc.ram": [page * PAGE for page in bad]}, width=5)
    assert "|░▒▓██|" in drawn


def test_one_bad_page_among_many_is_drawn() -> None:
    """The lightest shade is for a share that rounds to nothing; blocks without bad pages have no line."""
    lengths = {"pc.ram": 64 << 20, "pc.rom": 2 * PAGE, "gone": 0}
    drawn = terminal_map(lengths, {"pc.ram": [(64 << 20) - PAGE], "pc.rom": [], "gone": [0], "unknown": [0]})
    assert drawn == f"{'pc.ram':>24}     64 MiB |{'·' * 63}░| 1 bad"
    assert terminal_map(lengths, {"pc.rom": [], "pc.ram": [(64 << 20) - PAGE]}) == drawn
    assert terminal_map(lengths, {}) == ""


def _rectangles(text: str) -> list[dict[str, str]]:
    return [dict(one.attrib) for one in ET.fromstring(text).iter(f"{_SVG}rect")]


def test_drawing_has_a_bar_for_each_block_and_a_cell_for_each_bad_page() -> None:
    """Rows of 128 pages, from left to right and from top to bottom."""
    drawn = svg_map({"a": 300 * PAGE, "b": 2 * PAGE}, {"a": [0, 127 * PAGE, 128 * PAGE, 299 * PAGE]})
    shapes = _rectangles(drawn)
    bars = [shape for shape in shapes if shape["fill"] == "#dddddd"]
    cells = [shape for shape in shapes if shape["fill"] != "#dddddd"]
    size = int(cells[0]["width"])
    assert [(int(bar["width"]), int(bar["height"])) for bar in bars] == [
        (128 * size, 3 * size),
        (2 * size, size),
    ]
    left, top = int(bars[0]["x"]), int(bars[0]["y"])
    places = [((int(cell["x"]) - left) / size, (int(cell["y"]) - top) / size) for cell in cells]
    assert places == [(0, 0), (127, 0), (0, 1), (43, 2)]
    assert re.findall(r"<title>a 0x([0-9a-f]+)</title>", drawn) == ["0", "7f000", "80000", "12b000"]
    assert {cell["fill"] for cell in cells} == {"rgb(135,0,0)"}
    # Nothing is drawn over another, nor outside.
    root = ET.fromstring(drawn)
    labels = [int(label.attrib["y"]) for label in root.iter(f"{_SVG}text")]
    ends = [int(bar["y"]) + int(bar["height"]) for bar in bars]
    assert (
        labels[0] < top and ends[0] < labels[1] < int(bars[1]["y"]) and ends[1] <= int(root.attrib["height"])
    )
    assert int(root.attrib["width"]) == 2 * left + 128 * size
    assert "a: 1200 KiB, 4 bad pages" in drawn and "b: 8 KiB, 0 bad pages" in drawn


def test_large_block_has_a_bounded_number_of_cells() -> None:
    """A cell of a guest of 16 GiB stands for 2,048 pages; it is the redder the more of them are bad."""
    length = 16 << 30
    share = [number * PAGE for number in range(1024)]
    cells = _rectangles(svg_map({"a": length}, {"a": [*share, length - PAGE]}))[1:]
    assert [cell["fill"] for cell in cells] == ["rgb(195,0,0)", "rgb(255,0,0)"]
    bar = _rectangles(svg_map({"a": length}, {}))[0]
    assert int(bar["height"]) == 16 * int(cells[0]["height"])
    assert svg_map({"a": length}, {"a": [length - PAGE]}).count(f"0x{length - (8 << 20):x}") == 1


@pytest.mark.parametrize("pages", [0, 1, 2])
def test_smallest_blocks(pages: int) -> None:
    """A RAMBlock of one page is one cell, and so is one without a page, which is never a bad one."""
    bar, *cells = _rectangles(svg_map({"a": pages * PAGE}, {"a": [page * PAGE for page in range(pages)]}))
    size = int(bar["height"])
    assert int(bar["width"]) == max(1, pages) * size
    assert [int(cell["width"]) for cell in cells] == [size] * pages


def test_cell_is_never_redder_than_all_of_it() -> None:
    """Of cells of one and a half pages every second one has the beginnings of two."""
    cells = _rectangles(svg_map({"a": 3072 * PAGE}, {"a": [page * PAGE for page in range(3072)]}))[1:]
    assert (len(cells), min(cell["fill"] for cell in cells)) == (2048, "rgb(135,0,0)")


def test_names_are_escaped() -> None:
    """A name from an untrusted file is no markup."""
    assert "<b>" not in svg_map({"<b>": PAGE}, {"<b>": [0]})
