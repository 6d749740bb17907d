"""Contract: commands in the documentation run or at least parse, links lead somewhere, quotes are true."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.status import Status
from snapproof.report.run_result import RunResult, Selection
from snapproof.runs.results_folder import write_results
from tests_unit.docs import docs_pages
from tests_unit.docs.docs_pages import ROOT, Command, pages
from tests_unit.support.containers import save_image
from tests_unit.support.scenario_values import outcome
from tests_unit.support.shell_commands import WrongCall, our_calls, parse_call
from tests_unit.support.synthetic_stream import Guest, Writer, write_golden

_BIN = Path(sys.executable).parent
_TABLE = Path(__file__).with_name("docs_commands.toml")
_PAGES = pytest.mark.parametrize("page", pages(), ids=docs_pages.name)
# Results folders that commands name, with the shard that is in each.
_RESULTS = {
    **{f"shards/{number}": (number, 3) for number in (1, 2, 3)},
    **{f"shard-{number}": (number, 3) for number in (1, 2, 3)},
    **dict.fromkeys(("merged", "results/nightly", "results/tonight", "results/last-night")),
}
# In running text an option may be named without its value, and a command without its arguments.
_LEFT_OUT = re.compile(
    "expected (one|at least one) argument|the following arguments are required|one of the arguments .* is"
)


@cache
def _table() -> list[dict[str, Any]]:
    return list(tomllib.loads(_TABLE.read_text())["command"])


def _entry(command: Command) -> dict[str, Any]:
    """Return the entry of docs_commands.toml for a command."""
    text = command.text.replace(".venv/bin/snapproof", "snapproof")
    fitting = [entry for entry in _table() if text.startswith(entry["starts"])]
    assert fitting, f"{command.page} shows '{command.text}', which docs_commands.toml has nothing about"
    return max(fitting, key=lambda entry: len(entry["starts"]))


def _all() -> list[Command]:
    return list(dict.fromkeys(command for page in pages() for command in docs_pages.commands(page)))


def _run_ones() -> list[Command]:
    seen = {
        command.text.replace(".venv/bin/", ""): command for command in _all() if "exit" in _entry(command)
    }
    return list(seen.values())


def test_every_command_is_known() -> None:
    """A command is run, or there is a reason why not; and none to be run is left over."""
    used = [_entry(command)["starts"] for command in _all()]
    assert len(used) > 20
    assert [e["starts"] for e in _table() if "exit" in e and e["starts"] not in used] == []
    assert all(("exit" in entry) != ("why" in entry) for entry in _table())


@_PAGES
def test_commands_parse(page: Path) -> None:
    """Each call of ours behind a prompt is one that our parser takes."""
    for command in docs_pages.commands(page):
        for call in our_calls(command.text):
            parse_call(call)


@_PAGES
def test_calls_in_running_text_parse(page: Path) -> None:
    """Each call of ours in running text has commands and options that there are."""
    for text in docs_pages.inline_calls(page):
        for call in our_calls(text):
            try:
                parse_call(call)
            except WrongCall as wrong:
                assert _LEFT_OUT.search(str(wrong)), wrong


def test_wrong_documentation_is_seen(tmp_path: Path) -> None:
    """A renamed option behind a prompt or in the text, a dead link and a false quote are seen."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A title\n```\n$ .venv/bin/snapproof run --profil-name smoke  # why\n```\n`snapproof docter`\n"
        "[a](#a-title) [b](none.md)\n\nFrom `snapproof/cli/run.py`:\n\n```python\nno such line\n```\n"
    )
    found = [Command("page.md", ".venv/bin/snapproof run --profil-name smoke")]
    assert [Command("page.md", c.text) for c in _commands_of(page)] == found
    for text in (found[0].text, *docs_pages.inline_calls(page)):
        with pytest.raises(WrongCall):
            parse_call(next(our_calls(text)))
    assert _dead_links(page) == ["none.md"]
    assert _false_quotes(page) == ["snapproof/cli/run.py: no such line"]


def _commands_of(page: Path) -> list[Command]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docs_pages, "ROOT", page.parent)
        return list(docs_pages.commands(page))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that commands of the documentation name; each file is small and synthetic."""
    place = tmp_path_factory.mktemp("docs")
    (place / ".venv").mkdir()
    (place / ".venv/bin").symlink_to(_BIN)
    writer = Writer(Guest())
    write_golden(place / "golden", writer)
    for name in ("vmstate", "vmstate-a"):
        (place / name).write_bytes(writer.stream())
    (place / "vmstate.gz").write_bytes(gzip.compress(writer.stream()))
    (place / "web-1.save").write_bytes(save_image(gzip.compress(writer.stream()), 1))
    (place / "mapped").write_bytes(Writer(Guest(seed=9)).stream())
    writer.guest.ram[40, 9] ^= np.uint64(1)
    for name in ("suspect", "vmstate-b"):
        (place / name).write_bytes(writer.stream())
    writer.guest.ram[100:160] = 0
    (place / "zeroed").write_bytes(writer.stream())
    return place


def _leave_results(place: Path, command: str) -> None:
    """Leave the results folders that a command names, but for the one that it makes itself."""
    for name, shard in _RESULTS.items():
        if f"--output {name}" not in command:
            (place / name).mkdir(parents=True)
            found = [outcome(f"t.{shard[0] if shard else 0}", Status.PASS)]
            selection = Selection("premerge", shard=shard)
            begun = "2026-01-02T03:04:05+00:00"
            result = RunResult(found, begun, 9.0, ["snapproof", "run"], {"qemu": "10.0"}, selection)
            write_results(place / name, result)


@pytest.mark.parametrize("command", _run_ones(), ids=lambda command: command.text)
def test_commands_run(command: Command, folder: Path, tmp_path: Path) -> None:
    """Each command that takes no guest ends as the page says, and without a traceback."""
    place = tmp_path / "here"
    shutil.copytree(folder, place, symlinks=True)
    _leave_results(place, command.text)
    environment = {**os.environ, "PATH": f"{_BIN}:{os.environ['PATH']}"}
    script = f"set -o pipefail\n{command.text}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in _entry(command)["exit"], f"{command}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr


def _dead_links(page: Path) -> list[str]:
    dead = []
    for link in docs_pages.links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if re.match(r"https?:", link):
            continue
        if not target.exists() or (anchor and anchor not in docs_pages.anchors(target)):
            dead.append(link)
    return dead


@_PAGES
def test_links_lead_somewhere(page: Path) -> None:
    """Each link within the project names a file that there is, and a heading in it."""
    assert _dead_links(page) == []


def test_every_page_is_reachable() -> None:
    """From the README one gets to every page of docs/ by links."""
    reached, new = set(), [ROOT / "README.md"]
    while new:
        page = new.pop()
        if page in reached or not page.is_file():
            continue
        reached.add(page)
        new += [(page.parent / link.partition("#")[0]).resolve() for link in docs_pages.links(page)]
        new += (ROOT / "docs/decisions").glob("*.md")  # linked as a folder
    assert [docs_pages.name(page) for page in pages() if page not in reached] == []


@_PAGES
def test_findings_exist(page: Path) -> None:
    """Each finding that a page names is in the baseline and has its section in docs/findings.md."""
    baseline = (ROOT / "tests_functional/known_issues.toml").read_text()
    sections = (ROOT / "docs/findings.md").read_text()
    for finding in docs_pages.findings(page):
        assert f'id = "{finding}"' in baseline, finding
        assert f"\n## {finding}: " in sections, finding


def _false_quotes(page: Path) -> list[str]:
    false = []
    for file, pieces in docs_pages.quotations(page):
        source = re.sub(r"^ +", "", (ROOT / file).read_text(), flags=re.MULTILINE)
        for piece in pieces:
            flat = re.sub(r"^ +", "", piece, flags=re.MULTILINE).strip()
            if flat not in source:
                false.append(f"{file}: {flat.splitlines()[0]}")
    return false


@_PAGES
def test_quoted_code_is_in_the_tree(page: Path) -> None:
    """Code that a page says is from a file stands in that file."""
    assert _false_quotes(page) == []


def test_the_worked_example_is_quoted() -> None:
    """The page on writing a test shows a scenario, a check, a method and an entry from the tree."""
    assert len(list(docs_pages.quotations(ROOT / "docs/writing-a-test.md"))) == 4
