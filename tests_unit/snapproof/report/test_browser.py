"""Contract: report.html works in a real browser: no error, nothing fetched, two widths, on paper."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from snapproof.report.html import bench_html, report_html
from tests_unit.support import report_values as values
from tests_unit.support.bench_values import bench

if TYPE_CHECKING:
    from playwright.sync_api import Browser

sync_api = pytest.importorskip("playwright.sync_api", reason="there is no playwright for this machine")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(_CHROMIUM is None, reason="there is no chromium on PATH"),
    pytest.mark.timeout(600),
]

_PHONE, _DESK = 360, 1280
_HEIGHT = 800
_OPEN_ALL = "document.querySelectorAll('details').forEach(d => { d.open = true; })"


class _Screen:
    """A browser window of one width, and what went wrong in the page that it shows.

    Attributes:
        page: the page.
        problems: its console messages, uncaught exceptions and violations of its policy.
        requests: the URLs that it asked for.
    """

    def __init__(self, browser: Browser, width: int) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": _HEIGHT}, is_mobile=width == _PHONE)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.problems.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path, dark: bool = False, fragment: str = "") -> None:
        """Open a file and wait until it is loaded; forget the problems and requests of the last one."""
        self.page.emulate_media(media="null", color_scheme="dark" if dark else "light")
        # A URL that differs from the last one in its fragment only would not be loaded again.
        self.page.goto("about:blank")
        self.problems.clear()
        self.requests.clear()
        self.page.goto(f"{path.as_uri()}{fragment}")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        return self.page.evaluate(expression)


@pytest.fixture(scope="module")
def screens() -> Iterator[dict[int, _Screen]]:
    """Start one browser for all tests of this file; return its windows by their width in CSS pixels."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, chromium_sandbox=os.geteuid() != 0)
        yield {width: _Screen(browser, width) for width in (_PHONE, _DESK)}
        browser.close()


@pytest.fixture
def phone(screens: dict[int, _Screen]) -> _Screen:
    """Return the window as wide as a phone."""
    return screens[_PHONE]


@pytest.fixture
def desk(screens: dict[int, _Screen]) -> _Screen:
    """Return the window as wide as a desk's screen."""
    return screens[_DESK]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder with the page of every kind of result, and one of a bench."""
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


@pytest.mark.parametrize("name", ["report.html", "bench.html"])
@pytest.mark.parametrize("width", [_PHONE, _DESK])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_opens_without_error(
    screens: dict[int, _Screen], folder: Path, name: str, width: int, dark: bool
) -> None:
    """There is no console message, no request except the page, and no overflow with all details open."""
    page = screens[width]
    page.open(folder / name, dark)
    page.evaluate(_OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.problems == []
    assert page.requests == [(folder / name).as_uri()]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not dark


def test_overflow_is_seen(phone: _Screen, folder: Path, tmp_path: Path) -> None:
    """The checks above can fail: they see a wide element, an image from elsewhere and a foreign script."""
    text = (folder / "report.html").read_text()
    planted = "<div style='width:2000px'>x</div><img src='http://192.0.2.1/x.png'><script>alert(1)</script>"
    bad = tmp_path / "bad.html"
    bad.write_text(text.replace("<main>", f"<main>{planted}"))
    phone.open(bad)
    assert phone.evaluate("document.documentElement.scrollWidth") > _PHONE
    assert len([problem for problem in phone.problems if "Content Security Policy" in problem]) == 2


def test_requests_and_errors_are_seen(desk: _Screen, tmp_path: Path) -> None:
    """In a page without a policy, a request, an exception and console messages are seen."""
    script = "console.warn('w'); console.error('e'); throw new Error('thrown')"
    bad = tmp_path / "bad.html"
    bad.write_text(f"<!doctype html><img src='image.png'><script>{script}</script>")
    desk.open(bad)
    assert sorted(desk.requests) == [bad.as_uri(), (tmp_path / "image.png").as_uri()]
    for problem in ("warning: w", "error: e", "thrown"):
        assert problem in desk.problems


def test_text_of_charts_can_be_read_on_a_phone(phone: _Screen, folder: Path) -> None:
    """At 360 px no text of a chart is smaller than 8 px, and none leaves its drawing."""
    phone.open(folder / "report.html")
    phone.evaluate(_OPEN_ALL)
    small = "[...document.querySelectorAll('svg.chart text')].map(t => t.getBoundingClientRect().height)"
    assert phone.evaluate(f"Math.min(...{small})") >= 8
    outside = """[...document.querySelectorAll('svg.chart text')].filter(t => {
        const [a, b] = [t.getBoundingClientRect(), t.closest('svg').getBoundingClientRect()];
        return a.left < b.left - 2 || a.right > b.right + 2 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
    }).map(t => t.textContent)"""
    assert phone.evaluate(outside) == []


def test_cell_of_the_matrix_opens_its_tests(desk: _Screen, folder: Path) -> None:
    """A click on a cell opens the list; a link to one test opens that test."""
    desk.open(folder / "report.html")
    desk.page.locator(".matrix td a").first.click()
    target = "document.getElementById(document.querySelector('.matrix td a').hash.slice(1))"
    assert desk.evaluate(f"{target}.closest('details').open") is True
    desk.open(folder / "report.html", fragment="#test-4")
    assert desk.evaluate("document.getElementById('test-4').closest('details.test').open") is True


def test_search_finds_by_sentence(desk: _Screen, folder: Path) -> None:
    """The search leaves the tests with all words, and says how many there are."""
    desk.open(folder / "report.html")
    desk.page.locator(".filter input").fill("no KSM hosts")
    shown = "[...document.querySelectorAll('details.test')].filter(t => t.checkVisibility()).length"
    assert desk.evaluate(shown) == 3
    assert desk.evaluate("document.querySelector('.hits').textContent") == "3 of 15"


def test_print_opens_everything(desk: _Screen, folder: Path) -> None:
    """A printed page has every test's sentence on white, even if the screen is dark."""
    desk.open(folder / "report.html", dark=True)
    desk.page.emulate_media(media="print")
    ground = desk.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ground')")
    assert ground.strip() == "#ffffff"
    sentences = "[...document.querySelectorAll('details.test .sentence')]"
    assert desk.evaluate(f"{sentences}.filter(e => !e.getBoundingClientRect().height).length") == 0
    desk.page.emulate_media(media="null")
    assert desk.page.pdf().startswith(b"%PDF")
