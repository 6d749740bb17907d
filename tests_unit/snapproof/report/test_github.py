"""Contract: GitHub shows summary and annotations as intended, whatever text a test has."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from harness.status import Status
from snapproof.report.context import Context
from snapproof.report.github import github_annotations, github_summary
from snapproof.report.run_result import OutcomeRecord
from snapproof.report.text import one_line
from tests_unit.support.report_results import NASTY, everything, hostile, one_of_each, placed, result
from tests_unit.support.scenario_values import outcome

_COMMAND = re.compile(r"::(?P<name>[a-z]+)(?: (?P<properties>[^:]*))?::(?P<data>.*)")
_HERE = Context(Path("results"))


def _html(text: str) -> str:
    """Parse it as GitHub's Markdown."""
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))


def _cells(text: str) -> list[str]:
    """Return the text of all cells of all tables, as it is shown."""
    found = re.findall(r"<td[^>]*>(.*?)</td>", _html(text))
    # A browser does this with entities.
    return [cell.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
            for cell in found]  # fmt: skip


def _commands(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Parse commands into name, properties and message like the runner (actions/runner, ActionCommand)."""
    found = []
    for line in text.splitlines():
        match = _COMMAND.fullmatch(line)
        assert match, f"no command: {line!r}"
        pairs = [pair.split("=", 1) for pair in (match["properties"] or "").split(",") if pair]
        properties = {
            name: value.replace("%2C", ",").replace("%3A", ":").replace("%0A", "\n").replace("%25", "%")
            for name, value in pairs
        }
        data = match["data"].replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")
        found.append((match["name"], properties, data))
    return found


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [
        ([Status.PASS, Status.XFAIL], "passed"),
        ([Status.FAIL, Status.PASS], "failed"),
        ([Status.MISS], "broken"),
        ([Status.SKIP], "all skipped"),
        ([], "nothing ran"),
    ],
)
def test_summary_begins_with_the_verdict(statuses: list[Status], verdict: str) -> None:
    """The title agrees with the exit code; a known issue does not make a run red."""
    made = result(*[outcome(f"a.{status.value}", status) for status in statuses])
    assert github_summary(made, _HERE).startswith(f"## snapproof: {verdict}\n")


def test_summary_has_every_test_the_worst_first() -> None:
    """Tests that did not pass are in an open list, all others are folded; each test is there once."""
    text = github_summary(everything(), _HERE)
    cells = _cells(text)
    for one in everything().outcomes:
        assert cells.count(one.name) == 1
        assert cells.count(one.sentence) == 1
    assert [text.count(word) for word in ("<details open>", "<details>", "</details>")] == [1, 2, 3]
    assert cells.index("debian-10.0/a.FAIL") < cells.index("debian-11.0/a.ERROR") < cells.index("SKIP")


def test_summary_shows_any_text_as_it_is() -> None:
    """Text of a test adds no markup, no HTML, no cell and no line."""
    made = hostile()
    cells = _cells(github_summary(made, _HERE))
    assert len(cells) == 2 * 3 + 4 * len(made.outcomes)
    # Three rows of the environment, and a sentence for each test.
    assert cells.count(one_line(NASTY)) == 3 + len(made.outcomes)
    html = _html(github_summary(made, _HERE))
    assert not re.findall(r"<(?:script|em|strong|code|a|s|img|bad)\b", html)


def test_summary_links_logs(tmp_path: Path) -> None:
    """Each test links to its log if others can read it."""
    made = result(outcome("a.b c", Status.FAIL))
    context = replace(placed(tmp_path, made), url="https://ci.example/(1)/")
    assert '<a href="https://ci.example/(1)/tests/a.b%20c/test.log">a.b c</a>' in _html(
        github_summary(made, context)
    )
    assert "<a " not in _html(github_summary(made, replace(context, url="")))


def test_summary_is_bounded() -> None:
    """GitHub drops summaries above 1 MiB, so ours is cut and says so; tests that did not pass come first."""
    many = [outcome(f"a.{number}", Status.PASS, "x" * 500) for number in range(4000)]
    text = github_summary(result(*many, outcome("b.bad", Status.FAIL)), _HERE)
    assert len(text.encode()) < 1 << 20
    assert "b.bad" in text
    assert re.search(r"\(\d+ more lines; see results\.json\.\)", text)


def test_annotations_tell_what_is_wrong() -> None:
    """Errors are for failures and errors, a notice for a known issue, a warning for one that is gone."""
    found = {
        (name, properties["title"])
        for name, properties, _ in _commands(github_annotations(result(*one_of_each()), _HERE))
    }
    assert found == {
        ("error", "snapproof: FAIL a.FAIL"),
        ("error", "snapproof: ERROR a.ERROR"),
        ("error", "snapproof: MISS a.MISS"),
        ("warning", "snapproof: XPASS a.XPASS"),
        ("notice", "snapproof: XFAIL a.XFAIL"),
    }


def test_annotations_name_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An annotation has the log's path from the workspace and all lines, with the command's signs escaped."""
    monkeypatch.chdir(tmp_path)
    made = result(outcome("a.b", Status.FAIL, "100% wrong: a, b\nand c."))
    ((name, properties, data),) = _commands(github_annotations(made, placed(tmp_path / "run: 1,2", made)))
    assert (name, data) == ("error", "100% wrong: a, b\nand c.")
    assert properties == {"file": "run: 1,2/tests/a.b/test.log", "title": "snapproof: FAIL a.b"}


def test_annotations_cannot_be_forged(tmp_path: Path) -> None:
    """There is one command per test and no other, whatever text its name, sentence and folder have."""
    made = hostile()
    found = _commands(github_annotations(made, placed(tmp_path, made)))
    assert [name for name, _, _ in found] == ["error"] * 3 + ["warning", "notice"]
    assert all(set(properties) == {"file", "title"} for _, properties, _ in found)
    assert all(properties["title"].endswith(one_line(NASTY)) for _, properties, _ in found)


def test_annotations_beyond_ten_are_counted() -> None:
    """GitHub shows ten of a kind, so the tenth names the others; the worst come first."""
    many = [outcome(f"a.{number}", Status.ERROR) for number in range(14)]
    found = _commands(github_annotations(result(*many, outcome("b", Status.FAIL)), _HERE))
    assert len(found) == 10
    assert found[0][1]["title"] == "snapproof: FAIL b"
    assert found[9][2] == "6 more: a.8, a.9, a.10, a.11, a.12, a.13"


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [([], "Nothing ran"), ([outcome("a", Status.SKIP)], "All tests were skipped")],
)
def test_nothing_tested_is_an_error(outcomes: list[OutcomeRecord], said: str) -> None:
    """A step that tested nothing has an error among its annotations."""
    found = github_annotations(result(*outcomes), Context(Path("results")))
    assert found == f"::error title=snapproof::{said}: nothing was tested.\n"
