"""Contract: report.html says what results.json says, and shows only what is in the results folder."""

from __future__ import annotations

import json
import re
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from snapproof.report.html import bench_html, report_html
from snapproof.report.html.page import FAILURE_LIMIT, TEST_LIMIT
from tests_unit.support import report_values as values
from tests_unit.support.bench_values import bench

_VOID = {"meta", "link", "input", "br"}


class _Parsed(HTMLParser):
    """Collects elements, and raises if one is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data

    def every(self, name: str) -> list[str]:
        """Return all values of an attribute."""
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def _page(result: dict[str, Any], folder: Path) -> _Parsed:
    text = report_html(result, folder)
    parsed = _Parsed(text)
    _assert_harmless(text, parsed)
    return parsed


def _assert_harmless(text: str, parsed: _Parsed) -> None:
    """The page fetches nothing and runs one script only, ids are unique and fragments have targets."""
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not {tag for tag, _ in parsed.tags} & {"iframe", "img", "object", "embed", "base", "form", "image"}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert not parsed.every("src")
    ids = parsed.every("id")
    assert len(ids) == len(set(ids))
    for href in parsed.every("href") + parsed.every("xlink:href"):
        assert href.startswith(("#", "./", "data:,")), href
        assert not href.startswith("#") or href[1:] in ids, href
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", text)
    policy = next(a["content"] for t, a in parsed.tags if t == "meta" and "Policy" in a.get("http-equiv", ""))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


def test_order_of_sections(tmp_path: Path) -> None:
    """The order is verdict, environment, matrix, failures, known issues, skips, bench, all tests."""
    (tmp_path / "bench.json").write_text(json.dumps(bench(repeats=1)))
    values.fill_folder(tmp_path)
    page = _page(values.every_kind(), tmp_path)
    wanted = ["environment", "matrix", "failures", "issues", "skipped", "bench", "tests"]
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == wanted
    assert page.text.index("3 of 15 tests went wrong, 3 skipped") < page.text.index("Environment")
    assert "A snapshot, QEMU or the kernel is wrong. Exit code 1." in page.text


def test_environment_says_what_was_run_on_what(tmp_path: Path) -> None:
    """A run with one QEMU shows host kernel, QEMU, accelerator, guest, seed and command."""
    text = _page(values.run(values.test("a.b")), tmp_path).text
    for word in ("6.18.44 #1 SMP", "10.0.13 (Debian)", "tcg", "default", "024d978d"):
        assert word in text
    assert "/usr/bin/snapproof run --profile smoke --seed 5" in text
    assert re.search(r"Seed\s*5", text)


def test_matrix_counts_each_test_once_and_leads_to_it(tmp_path: Path) -> None:
    """A cell has the number of tests by status, and its link leads to exactly these."""
    text = report_html(values.every_kind(), tmp_path)
    page = _page(values.every_kind(), tmp_path)
    table = text[text.index('class="matrix"') : text.index("</table>", text.index('class="matrix"'))]
    assert sum(map(int, re.findall(r'title="(\d+) [A-Z]+"', table))) == 15
    assert "QEMU 7.2.22" in table and "QEMU 10.0.13" in table
    assert "Linux" not in table, "all columns have the same host kernel"
    targets = re.findall(r'<a href="#(list-\d+)"', table)
    assert len(targets) == len(set(targets)) == 6
    assert set(targets) <= set(page.every("id"))


def test_merged_matrix_has_a_row_for_a_group_and_a_column_for_a_stack(tmp_path: Path) -> None:
    """In a merge of two machines' runs of two QEMUs, labels have both, with a slash between."""
    legs = [f"{machine}/{qemu}" for machine in ("x86", "arm64") for qemu in ("d12", "d13")]
    tests = [values.test(f"{leg}/snapshot.live", "PASS", environment={"qemu": leg}) for leg in legs]
    made = {**values.run(*tests), "environment": {leg: {"qemu": leg} for leg in legs}}
    text = report_html(made, tmp_path)
    table = text[text.index('class="matrix"') : text.index("</table>", text.index('class="matrix"'))]
    assert table.count("<tr") == 2
    assert all(leg in table for leg in legs)


def test_failure_names_oracle_page_and_command(tmp_path: Path) -> None:
    """A failure shows the check, its demand, the first violations with place and bytes, and the command."""
    values.fill_folder(tmp_path, "tests/snapshot.live")
    page = _page(values.run(values.failing()), tmp_path)
    for word in (
        "01-live/write-order", "What 01-live/write-order demands.", "Page 0 of agent thread 0 is newer",
        "RAMBlock pc.ram, offset 0x1000, guest-physical 0x1000, file offset 0x1011", "generation 1",
        "expected +0x020: 01 00", "24,350 more violations", "snapproof run --seed 5 --filter snapshot.live",
        "pc.ram 0x0 to 0x3e8000, 1,000 pages", "1 check passed",
    ):  # fmt: skip
        assert word in page.text, word
    charts = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(charts) == 2, "a map and a timeline"
    assert "./tests/snapshot.live/test.log" in page.every("href")
    assert "pc.ram: 1,000 pages bad, first at 0x0" in page.text
    assert "5.99 ms" in page.text


def test_command_of_a_failure_has_its_own_filter_alone(tmp_path: Path) -> None:
    """Without a reproduce.sh the command is the run's, without its filters and its shard."""
    words = ["snapproof", "run", "--filter", "a.*", "--seed", "5", "--filter", "b.*", "--shard", "1/2"]
    page = _page({**values.run(values.failing()), "command": words}, tmp_path)
    assert "snapproof run --seed 5 --filter snapshot.live" in page.text


def test_broken_test_shows_its_evidence(tmp_path: Path) -> None:
    """An error shows command line, exit code and last lines of the log."""
    text = _page(values.every_kind(), tmp_path).text
    for word in ("qemu 'a b'", "-6", "one\ntwo", "/tmp/x"):
        assert word in text


def test_known_issues_name_their_tests(tmp_path: Path) -> None:
    """XFAIL and XPASS are listed by issue, with its title from the baseline and its reproducer."""
    page = _page(values.every_kind(), tmp_path)
    assert "a save whose exec: command fails is reported as completed" in page.text
    assert "docs/reproducers/f8-failed-command-completes.sh QEMU" in page.text
    assert re.search(r"Showed in\s+new/failures.known", page.text)
    assert re.search(r"Did not show in\s+new/failures.fixed", page.text)
    assert "issue-F8" in page.every("id")


def test_issue_that_the_baseline_does_not_have(tmp_path: Path) -> None:
    """An issue that the baseline does not have, as an older results file may name it, is shown."""
    bad = values.check("x", "XFAIL", known_issue='F"9 <b>', reason="so")
    assert 'F"9 <b>' in _page(values.run(values.test("a.b", "XFAIL", checks=[bad])), tmp_path).text


def test_skips_are_grouped_by_reason(tmp_path: Path) -> None:
    """Three tests with one reason are one line."""
    text = report_html(values.every_kind(), tmp_path)
    part = text[text.index('id="skipped"') : text.index('id="tests"')]
    assert part.count("This host has no KSM.") == 1
    assert '<span class="count">3</span>' in part


@pytest.mark.parametrize(
    ("tests", "words"),
    [
        ([], ("NOTHING RAN", "No test ran", "Nothing ran. Exit code 3.")),
        (
            [values.test("a.b", "SKIP")],
            ("SKIP", "Everything was skipped, each test with its reason. Exit code 4."),
        ),
        ([values.test("a.b"), values.test("a.c")], ("None of 2 tests went wrong", "Everything passed.")),
        (
            [values.test("a.b"), values.test("a.c", "XFAIL")],
            ("None of 2 tests went wrong, 1 as a known issue says", "All that is not known passed"),
        ),
        ([values.test("a.b", "MISS")], ("MISS", "machinery is missing.")),
    ],
)
def test_verdict_in_words(tests: list[dict[str, Any]], words: tuple[str, ...], tmp_path: Path) -> None:
    """A run in which nothing ran or all was skipped is never called passed."""
    text = _page(values.run(*tests), tmp_path).text
    for word in words:
        assert word in text


_HOSTILE = (
    "</style></pre><script>alert(1)</script><svg onload=alert(2)>\"'&lt; "
    "\x1b[31mred\x1b[0m \x00\x08\u202e\udcff"
)


def _poisoned(value: Any, depth: int = 0) -> Any:
    """Return the structure with every text hostile, except statuses, which select what is shown."""
    if isinstance(value, dict):
        return {
            key: one if key in ("status", "known_issue") else _poisoned(one, depth + 1)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_poisoned(one, depth + 1) for one in value]
    return _HOSTILE if isinstance(value, str) else value


def test_hostile_texts_are_only_shown(tmp_path: Path) -> None:
    """Any text of the results may have markup, control characters or bytes that are not UTF-8."""
    (tmp_path / "bench.json").write_text(json.dumps(_poisoned(bench(repeats=1))))
    page = _page(_poisoned(values.every_kind()), tmp_path)
    assert "<script>alert(1)</script>" in page.text
    assert "red" in page.text and "[31m" not in page.text
    assert "\u202e" not in page.text


def test_hostile_files_are_only_linked(tmp_path: Path) -> None:
    """Names of files become URLs below the page; folders that lead elsewhere are not read."""
    place = tmp_path / "tests" / "javascript:alert(1)"
    place.mkdir(parents=True)
    (place / 'a"><script>.log').write_text("")
    (place / "per%20cent?x#y.log").write_text("")
    (place / "gone").symlink_to("/etc/passwd")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "secret.log").write_text("")
    (tmp_path / "tests" / "away").symlink_to(outside)
    tests = [
        values.test(f"a.{index}", folder=folder)
        for index, folder in enumerate(
            [
                "tests/javascript:alert(1)",
                "../" + outside.name,
                str(outside),
                "tests/away",
                "\0",
                "",
                "x" * 5000,
                7,
            ]
        )
    ]
    hrefs = [href for href in _page(values.run(*tests), tmp_path).every("href") if href.startswith("./")]
    assert sorted(hrefs) == [
        "./tests/javascript%3Aalert%281%29/a%22%3E%3Cscript%3E.log",
        "./tests/javascript%3Aalert%281%29/per%2520cent%3Fx%23y.log",
    ]


def test_broken_shapes_are_left_out(tmp_path: Path) -> None:
    """A results file with wrong types raises no error, and an unknown status is an ERROR."""
    shapes: list[dict[str, Any]] = [
        {},
        {"tests": 3},
        {"tests": [None, 7, {}]},
        {"environment": [], "command": 1},
    ]
    for broken in shapes:
        _page(broken, tmp_path)
    odd = values.test(
        "a.b", seconds=float("nan"), figures=[], environment=None, checks=[None, {"name": 3}, {}]
    )
    odd["checks"].append(
        values.check("x", "FAIL", total="many", violations=[{"offset": 1 << 70, "gpa": True}])
    )
    odd["checks"][-1]["ranges"] = [
        {"block": None, "start": "a", "end": 3},
        {"start": 0, "end": 1 << 80, "pages": 1e400},
    ]
    page = _page({**values.run(), "tests": [{**odd, "status": "WHATEVER"}]}, tmp_path)
    assert "ERROR" in page.text


def test_absurd_figures_cost_a_chart_at_most(tmp_path: Path) -> None:
    """Figures that no axis can show give a sentence in place of the chart."""
    values.fill_folder(tmp_path, "tests/snapshot.live")
    one = values.failing()
    one["figures"] = {"01-live/largest_write_stall_us": 1e308, "01-live/stun_ms": 1e400, "ram_mib": 10**400}
    rows = [{**sample, "stun_ms": 1e308, "size_bytes": 1e-300} for sample in bench(repeats=1)["samples"]]
    (tmp_path / "bench.json").write_text(json.dumps({"samples": rows}))
    assert "01-live/write-order" in _page(values.run(one), tmp_path).text


@pytest.mark.timeout(300)
def test_page_is_bounded(tmp_path: Path) -> None:
    """A page of thousands of tests and megabytes of text is small, and says what it leaves out."""
    long = "x" * (1 << 20)
    bad = values.check("golden", "FAIL", total=10**6, violations=[{"sentence": long, "hexdump": long}] * 1000)
    many = [values.test(f"g{index % 9}.{index}", sentence=long) for index in range(TEST_LIMIT + 500)]
    some = [values.test(f"bad.{index}", "FAIL", checks=[bad] * 30, sentence=long) for index in range(60)]
    begun = time.process_time()
    text = report_html(values.run(*many, *some), tmp_path)
    assert time.process_time() - begun < 60
    assert len(text) < 24 << 20
    assert text.count('class="failure FAIL"') == FAILURE_LIMIT
    assert "560 more tests are in results.json; this page has the worst." in text
    assert f"{60 - FAILURE_LIMIT} more" in text
    assert "18 more checks that did not pass" in text
    assert "(1,048,576 characters)" in text


def test_without_matplotlib_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page made without matplotlib has all but the charts, and says how to get them."""
    monkeypatch.setitem(sys.modules, "snapproof.report.charts.svg", None)
    values.fill_folder(tmp_path, "tests/snapshot.live")
    page = _page(values.run(values.failing()), tmp_path)
    assert "There are no charts here: matplotlib could not be imported" in page.text
    assert "pip install 'snapproof[report]'" in page.text
    assert "01-live/write-order" in page.text
    assert "svg" not in {tag for tag, _ in page.tags}


def test_page_of_a_bench_alone() -> None:
    """A bench shows charts, environment and medians; failed samples are counted by their sentence."""
    content = bench(repeats=3)
    content["samples"].append({"ram_mib": 256, "way": "savevm", "error": "QEMU <ended>."})
    content["left_out"] = [{"what": "8192 MiB", "why": "There is no <room> for it."}]
    text = bench_html(content)
    page = _Parsed(text)
    _assert_harmless(text, page)
    assert [tag for tag, _ in page.tags].count("svg") == 5
    assert "75 samples in 20 min" in page.text
    assert "1 \N{MULTIPLICATION SIGN} QEMU <ended>." in page.text
    assert "snapproof bench downtime" in page.text
    assert "8192 MiB: There is no <room> for it." in page.text
    assert re.search(r"4096 MiB, stop and save\s*all\s*unlimited\s*3", page.text)
    assert "There is no sample without an error." in _Parsed(bench_html({})).text


@pytest.mark.parametrize("content", ["{", "[]", '{"samples": 1}', "\ud800".encode("utf-8", "surrogatepass")])
def test_bench_that_cannot_be_read(content: str | bytes, tmp_path: Path) -> None:
    """A bench.json that cannot be read gives a sentence."""
    (tmp_path / "bench.json").write_bytes(content.encode() if isinstance(content, str) else content)
    text = _page(values.run(values.test("a.b")), tmp_path).text
    assert "could not be read" in text or "There is no sample without an error." in text
