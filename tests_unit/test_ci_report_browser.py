"""Contract: report.html works in a real browser: no error, nothing fetched, two widths, on paper."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.reports.html import bench_html, report_html
from tests_unit import report_values as values
from tests_unit.bench_values import bench
from tests_unit.browser import EXECUTABLE, Browser, browser

pytestmark = [
    pytest.mark.skipif(EXECUTABLE is None, reason="there is no chromium on PATH"),
    pytest.mark.timeout(600),
]

_PHONE, _DESK = 360, 1280
_OPEN_ALL = "document.querySelectorAll('details').forEach(d => { d.open = true; })"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the page of every kind of result, and one of a bench."""
    place = tmp_path_factory.mktemp("report page")
    values.fill_folder(place)
    (place / "bench.json").write_text(json.dumps(bench(repeats=2)))
    result = values.every_kind()
    # Words without a place to break, as paths and names of RAMBlocks are.
    result["tests"][1]["sentence"] = "x" * 500
    result["tests"][0]["checks"][1]["violations"][0]["hexdump"] = "y" * 400
    (place / "report.html").write_text(report_html(result, place))
    (place / "bench.html").write_text(bench_html(bench(repeats=2)))
    return place


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all of them."""
    profile = tmp_path_factory.mktemp("chromium")
    with browser(profile) as opened:
        yield opened
    shutil.rmtree(profile, ignore_errors=True)


@pytest.mark.parametrize("name", ["report.html", "bench.html"])
@pytest.mark.parametrize("width", [_PHONE, _DESK])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_opens_without_error(page: Browser, folder: Path, name: str, width: int, dark: bool) -> None:
    """No console message, no request but for the page, nothing wider than the screen with all open."""
    page.open(folder / name, width, dark)
    page.evaluate(_OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.problems == []
    assert page.requests == [(folder / name).as_uri()]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark


def test_overflow_is_seen(page: Browser, folder: Path, tmp_path: Path) -> None:
    """The checks above can fail: a wide element, an image from elsewhere and a foreign script are noticed."""
    text = (folder / "report.html").read_text()
    planted = "<div style='width:2000px'>x</div><img src='http://192.0.2.1/x.png'><script>alert(1)</script>"
    bad = tmp_path / "bad.html"
    bad.write_text(text.replace("<main>", f"<main>{planted}"))
    page.open(bad, _PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") > _PHONE
    assert len([problem for problem in page.problems if "Content Security Policy" in problem]) == 2


def test_text_of_charts_can_be_read_on_a_phone(page: Browser, folder: Path) -> None:
    """At 360 px no text of a chart is smaller than 8 px, and none leaves its drawing."""
    page.open(folder / "report.html", _PHONE)
    page.evaluate(_OPEN_ALL)
    small = "[...document.querySelectorAll('svg.chart text')].map(t => t.getBoundingClientRect().height)"
    assert page.evaluate(f"Math.min(...{small})") >= 8
    outside = """[...document.querySelectorAll('svg.chart text')].filter(t => {
        const [a, b] = [t.getBoundingClientRect(), t.closest('svg').getBoundingClientRect()];
        return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
    }).map(t => t.textContent)"""
    assert page.evaluate(outside) == []


def test_cell_of_the_matrix_opens_its_tests(page: Browser, folder: Path) -> None:
    """A click on a cell opens the list; a link to one test opens that test."""
    page.open(folder / "report.html", _DESK)
    page.evaluate("document.querySelector('.matrix td a').click()")
    target = "document.getElementById(document.querySelector('.matrix td a').hash.slice(1))"
    assert page.evaluate(f"{target}.closest('details').open") is True
    page.open(folder / "report.html", _DESK, fragment="#test-4")
    assert page.evaluate("document.getElementById('test-4').closest('details.test').open") is True


def test_search_finds_by_sentence(page: Browser, folder: Path) -> None:
    """The search leaves the tests that hold all words, and says how many."""
    page.open(folder / "report.html", _DESK)
    page.evaluate(
        """(() => { const i = document.querySelector('.filter input'); i.value = 'no KSM hosts';
        i.dispatchEvent(new Event('input')); })()"""
    )
    shown = "[...document.querySelectorAll('details.test')].filter(t => t.checkVisibility()).length"
    assert page.evaluate(shown) == 3
    assert page.evaluate("document.querySelector('.hits').textContent") == "3 of 15"


def test_print_opens_everything(page: Browser, folder: Path) -> None:
    """On paper every test's sentence is there, and the ground is white even where the screen is dark."""
    page.open(folder / "report.html", _DESK, dark=True)
    page.emulate(dark=True, media="print")
    ground = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ground')")
    assert ground.strip() == "#ffffff"
    sentences = "[...document.querySelectorAll('details.test .sentence')]"
    assert page.evaluate(f"{sentences}.filter(e => !e.getBoundingClientRect().height).length") == 0
    page.emulate(media="")
    assert page.pdf().startswith(b"%PDF")
