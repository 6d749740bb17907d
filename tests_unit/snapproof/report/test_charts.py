"""Contract: charts are SVG for any page, and no figure of a results file breaks them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from snapproof.report.charts.bench import by_ram_chart, size_chart, stall_chart, write_rate_chart
from snapproof.report.charts.page_map import page_map_chart
from snapproof.report.charts.palette import PALETTE
from snapproof.report.charts.samples import main_series, read_samples, ways_of
from snapproof.report.charts.svg import count_text, size_text, time_text
from snapproof.report.charts.timeline import timeline_chart
from snapproof.report.charts.times import SaveTimes
from tests_functional.lib.measure.figures import spread
from tests_unit.support.bench_values import WAYS, bench

_SVG = "{http://www.w3.org/2000/svg}"
_SAMPLES = main_series(read_samples(bench(repeats=2)))
_LARGEST = tuple(sample for sample in _SAMPLES if sample.ram_mib == 1024)
_SAVE = SaveTimes(
    "01-live", 100.0, (100.005,), (100.0072,), 101.4, "completed", ((100.1, 1e6), (101.0, 4e8), (101.4, 5e8))
)
_BAD = {"pc.ram": [(4096 * page, 4096 * (page + 1)) for page in (3, 900, 131_071)]}

_CHARTS: dict[str, Callable[[str], str]] = {
    "stun": lambda key: by_ram_chart(_SAMPLES, "stun_ms", "Stun", key),
    "size": lambda key: size_chart(_SAMPLES, key),
    "stalls": lambda key: stall_chart(_LARGEST, key),
    "rate": lambda key: write_rate_chart(_LARGEST, key),
    "timeline": lambda key: timeline_chart(_SAVE, 5987, key),
    "map": lambda key: page_map_chart(_BAD, {"pc.ram": 512 << 20}, key, "Bad pages"),
}
_EVERY = pytest.mark.parametrize("draw", _CHARTS.values(), ids=_CHARTS.keys())


def _words(svg: str) -> str:
    return " ".join(element.text or "" for element in ET.fromstring(svg).iter(f"{_SVG}text"))


@_EVERY
def test_chart_fits_into_a_page(draw: Callable[[str], str]) -> None:
    """Colours, fonts and size are the page's; a chart runs, fetches and styles nothing else."""
    svg = draw("one")
    root = ET.fromstring(svg)
    assert root.tag == f"{_SVG}svg"
    assert {element.tag.removeprefix(_SVG) for element in root.iter()} <= {
        "svg", "title", "desc", "g", "path", "text", "use", "defs", "clipPath", "rect",
    }  # fmt: skip
    assert "width" not in root.attrib
    assert "font-family: 'DejaVu" not in svg
    assert "<?xml" not in svg and "<!DOCTYPE" not in svg
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", svg), "a stand-in is left"
    allowed = {colour.css for colour in PALETTE} | {"none"}
    for element in root.iter():
        for name, value in (
            part.split(": ", 1) for part in element.get("style", "").split("; ") if ": " in part
        ):
            if name in ("fill", "stroke"):
                assert value in allowed, (element.tag, value)


@_EVERY
def test_chart_is_told_to_those_who_cannot_see_it(draw: Callable[[str], str]) -> None:
    """A chart is an image with a title and a description, and its labels are text."""
    svg = draw("one")
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    names = {element.get("id"): element.text for element in root if element.get("id")}
    title, description = (names[key] for key in (root.get("aria-labelledby") or "").split())
    assert title and description
    assert _words(svg)


@_EVERY
def test_chart_is_the_same_each_time_and_shares_no_id(draw: Callable[[str], str]) -> None:
    """Two drawings are equal byte for byte; with different keys they share no id."""
    one, two = draw("one"), draw("two")
    assert one == draw("one")
    assert one.replace("one-", "two-") == two
    ids = re.findall(r'\bid="([^"]+)"', one)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)
    for name in re.findall(r'(?:url\(#|href="#)([^")]+)', one):
        assert name in ids


def test_names_are_neither_formulas_nor_elements() -> None:
    """Any name of a RAMBlock is drawn as text."""
    svg = page_map_chart({"$x^2$<b>&": [(0, 4096)]}, {}, "k", "<script>")
    assert "$x^2$<b>&: 1 pages bad" in _words(svg)
    assert "<b>" not in svg and "<script>" not in svg


def test_map_shows_a_single_page_and_where() -> None:
    """A single bad page of 131,072 is visible in the right cell, the first or the last."""
    for page, place in ((0, "first"), (131_071, "last")):
        svg = page_map_chart({"pc.ram": [(page * 4096, page * 4096 + 4096)]}, {"pc.ram": 512 << 20}, "k", "t")
        paths = [e for e in ET.fromstring(svg).iter(f"{_SVG}path") if "--chart-bad" in e.get("style", "")]
        assert len(paths) == 1
        x, y = (float(word) for word in re.findall(r"[\d.]+", paths[0].get("d", ""))[:2])
        assert (x < 10 and y < 30) if place == "first" else (x > 380 and y > 80)


def test_map_takes_overlapping_and_absurd_ranges() -> None:
    """Ranges may overlap, come in any order, or lie after the end of the block."""
    ranges = {"a": [(8192, 16384), (0, 12288), (0, 4096)], "b": [(1 << 62, (1 << 62) + 4096)], "c": [(9, 3)]}
    svg = page_map_chart(ranges, {"a": 4096, "b": 8192}, "k", "t")
    assert "a: " in _words(svg) and "b: " in _words(svg) and "c: " not in _words(svg)


def test_nothing_to_draw_is_nothing() -> None:
    """There is no chart without samples that have the figure."""
    assert by_ram_chart((), "stun_ms", "Stun", "k") == ""
    assert by_ram_chart(_SAMPLES, "no_such_ms", "None", "k") == ""
    assert size_chart((), "k") == stall_chart((), "k") == write_rate_chart((), "k") == ""
    assert page_map_chart({}, {}, "k", "t") == page_map_chart({"a": []}, {}, "k", "t") == ""


def test_broken_samples_are_left_out() -> None:
    """Values that are missing, not numbers or negative, and failed samples, do not stop the rest."""
    good = bench(repeats=1)["samples"][0]
    wrong = [
        None, 7, {}, {"ram_mib": "512"}, {"ram_mib": float("nan")}, {"ram_mib": -1}, {"ram_mib": 1e300},
        {**good, "error": "It broke."},
        {**good, "ram_mib": True},
    ]  # fmt: skip
    odd = {
        "ram_mib": 256, "way": 3, "stall_histogram": [[1], ["a", "b", "c"], [4, 2, 1], [0, 2, 5]],
        "write_rate": {"t_ms": [0, "x", 200], "pages": [1, 2, 3], "interval_ms": 0},
    }  # fmt: skip
    found = read_samples({"samples": [*wrong, odd, good]})
    assert [sample.way for sample in found] == ["unnamed", good["way"]]
    assert found[0].stalls == ((0.0, 2.0, 5.0),)
    assert found[0].rate == ((0.0, 1.0), (200.0, 3.0))
    assert found[0].interval_ms == 100.0
    assert read_samples({"samples": {}}) == read_samples({}) == ()
    assert stall_chart(found[:1], "k") and write_rate_chart(found[:1], "k")


def test_like_is_compared_with_like() -> None:
    """Charts show one writer and one sink: `all` and `unlimited`, or else the most frequent pair."""
    rows = [{**bench(repeats=1)["samples"][0], "writer": writer} for writer in ("idle", "idle", "all", "hot")]
    assert [sample.writer for sample in main_series(read_samples({"samples": rows}))] == ["all"]
    without = [row for row in rows if row["writer"] != "all"]
    assert [sample.writer for sample in main_series(read_samples({"samples": without}))] == ["idle", "idle"]
    assert main_series(()) == ()


def test_ways_keep_their_order() -> None:
    """The order does not depend on the order of the samples."""
    assert ways_of(_SAMPLES) == sorted(WAYS)


def test_spread_is_that_of_all_repeats() -> None:
    """Median, smallest and largest are right."""
    found = spread([5.0, 1.0, 3.0])
    assert found is not None and (found.min, found.median, found.max) == (1.0, 3.0, 5.0)
    assert spread([]) is None


@pytest.mark.parametrize("stall", [None, 0.0, 1e13])
def test_timeline_of_a_save_without_end_or_events(stall: float | None) -> None:
    """A save without an end or events, as a QEMU that died leaves it, is drawn."""
    svg = timeline_chart(SaveTimes("01-live", 5.0), stall, "k")
    assert "no end seen" in _words(svg)


def test_timeline_says_what_it_shows() -> None:
    """Stun, duration and stall are in the labels and in the description."""
    svg = timeline_chart(_SAVE, 5987, "k")
    for text in ("2.2 ms", "1.4 s, completed", "5.99 ms"):
        assert text in _words(svg)
    assert "The guest was stopped for 2.2 ms, the save was completed after 1.4 s" in svg


def test_guest_that_is_not_resumed_stands_still_until_the_end() -> None:
    """A guest that is not resumed is stopped until the end; otherwise STOPs and RESUMEs pair up."""
    assert SaveTimes("a", 2.0, (1.0,), (), 4.0, "completed").stuns == ((1.0, 4.0),)
    assert SaveTimes("a", 2.0, (1.0, 5.0), (1.5, 5.25), 6.0, "completed").stuns == ((1.0, 1.5), (5.0, 5.25))


def test_numbers_as_people_say_them() -> None:
    """The unit changes before a number has four digits."""
    assert [time_text(us) for us in (5, 999, 1000, 2200, 1e6, 9.5e7)] == [
        "5 µs", "999 µs", "1 ms", "2.2 ms", "1 s", "95 s",
    ]  # fmt: skip
    assert [size_text(mib) for mib in (256, 1024, 1536)] == ["256 MiB", "1 GiB", "1.5 GiB"]
    assert [count_text(number) for number in (7, 12_000, 1_500_000)] == ["7", "12k", "1.5M"]
