"""Contract: `snapproof report` writes, merges and compares results, or says in one sentence why not."""

from __future__ import annotations

import json
import os
import stat
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import MachineryMissing
from harness.status import Status
from snapproof.cli.command import main
from snapproof.report.formats import FORMATS
from snapproof.report.reader import load_results
from snapproof.report.run_result import OutcomeRecord, RunResult, Selection
from snapproof.runs.results_folder import write_results
from tests_unit.support.ktap_reader import read_ktap
from tests_unit.support.report_results import everything, hostile, placed, result
from tests_unit.support.scenario_values import outcome

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def _report(capsys: Capture, *words: str | Path) -> tuple[int, str, str]:
    code = main(["report", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _shard(folder: Path, number: int, *outcomes: OutcomeRecord) -> Path:
    placed(folder, result(*outcomes, selection=Selection("premerge", shard=(number, 3))))
    return folder


# render


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("made", [everything(), hostile()], ids=["every-status", "hostile"])
def test_every_format(name: str, made: RunResult, tmp_path: Path, capsys: Capture) -> None:
    """Each format is printed or written to a file with the same text; the exit code is always 0."""
    placed(tmp_path / "run", made)
    code, out, err = _report(capsys, "render", tmp_path / "run", "--format", name)
    assert (code, err) == (0, "")
    assert out
    target = tmp_path / "run" / "out"
    assert _report(capsys, "render", tmp_path / "run", "--format", name, "--output", target)[0] == 0
    assert target.read_text() == out


def test_format_names() -> None:
    """The files of the formats have different names, and none is results.json."""
    files = [entry.file for entry in FORMATS.values()]
    assert len({*files, "results.json"}) == len(files) + 1


def test_unknown_format(tmp_path: Path, capsys: Capture) -> None:
    """The sentence names the formats that exist."""
    placed(tmp_path, result())
    code, _, err = _report(capsys, "render", tmp_path, "--format", "xls")
    assert code == 2
    assert err.startswith("snapproof: There is no format 'xls'; there are junit, ktap, html,")


def test_format_that_is_not_installed(tmp_path: Path) -> None:
    """A format whose module is not installed is MachineryMissing, not a traceback."""
    entry = replace(FORMATS["junit"], name="x", renderer="snapproof.report.no_such_module:text")
    with pytest.raises(
        MachineryMissing, match=r"cannot write 'x': the module 'snapproof.report.no_such_module' is"
    ):
        entry.render(result(), placed(tmp_path, result()))


def test_summary_goes_where_github_wants_it(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The summary is appended, because other steps write to the file too; a write error is one sentence."""
    placed(tmp_path / "run", result(outcome("a", Status.PASS)))
    target = tmp_path / "step"
    target.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(target))
    words = ("render", tmp_path / "run", "--format", "github-summary")
    assert _report(capsys, *words) == (0, "", "")
    assert target.read_text().startswith("before\n## snapproof: passed\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    code, _, err = _report(capsys, *words)
    assert code == 2
    assert "give $GITHUB_STEP_SUMMARY the name of a file" in err


def test_a_summary_never_goes_into_an_input(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that the CI system names is an output like any other, by whatever name."""
    placed(tmp_path / "run", result(outcome("a", Status.PASS)))
    results = tmp_path / "run" / "results.json"
    before = results.read_bytes()
    (tmp_path / "step").symlink_to(results)
    for named in (results, tmp_path / "step"):
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(named))
        code, _, err = _report(capsys, "render", tmp_path / "run", "--format", "github-summary")
        assert (code, results.read_bytes()) == (2, before)
        assert "$GITHUB_STEP_SUMMARY names" in err
        assert "which is an input" in err


@pytest.mark.parametrize("url", ["/srv/ci", "ftp://x/", "https://x/<b>", "https://a b/", 'https://x/"'])
def test_url_that_is_none(url: str, tmp_path: Path, capsys: Capture) -> None:
    """A URL with characters that could end a link or a string in a report is refused."""
    placed(tmp_path, result())
    code, _, err = _report(capsys, "render", tmp_path, "--format", "kcidb", "--url", url)
    assert code == 2
    assert "is not a URL" in err


def test_output_that_cannot_be_written(tmp_path: Path, capsys: Capture) -> None:
    """A target that is a folder, and a folder that does not exist, are refused."""
    placed(tmp_path, result())
    for target, said in ((tmp_path, "is a folder"), (tmp_path / "a" / "b", "There is no folder")):
        code, _, err = _report(capsys, "render", tmp_path, "--format", "junit", "--output", target)
        assert code == 2
        assert said in err


# the formats of a run


def test_run_writes_more_formats(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """All formats are in the folder; those for GitHub also go to its file and to the output."""
    target = tmp_path / "step"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(target))
    made = result(outcome("a", Status.FAIL))
    placed(tmp_path / "run", made)
    write_results(tmp_path / "run", made, [FORMATS[name] for name in FORMATS])
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"results.json", "tests", *(FORMATS[name].file for name in FORMATS)}
    assert target.read_text() == (tmp_path / "run" / "summary.md").read_text()
    assert capsys.readouterr().out == (tmp_path / "run" / "annotations.txt").read_text()


def test_format_that_fails_loses_no_result(tmp_path: Path) -> None:
    """results.json is written before the format that fails."""
    entry = replace(FORMATS["junit"], renderer="snapproof.report.no_such_module:text", file="x")
    with pytest.raises(MachineryMissing):
        write_results(tmp_path, result(outcome("a", Status.PASS)), [entry])
    assert load_results(tmp_path).exit_code == 0


# merge


def test_merge_makes_a_results_folder(tmp_path: Path, capsys: Capture) -> None:
    """The merged folder has all formats, the tests' files, and the exit code of all tests."""
    parts = [_shard(tmp_path / f"s{n}", n, outcome(f"t.{n}", Status.PASS)) for n in (1, 2, 3)]
    (tmp_path / "s1" / "stack.json").write_text("{}")
    code, out, err = _report(capsys, "merge", *parts, "--output", tmp_path / "all")
    assert (code, err) == (0, "")
    assert out == f"Results: {tmp_path / 'all'}\nPASS: 3 PASS from 3 folders\n"
    whole = load_results(tmp_path / "all")
    assert [one.name for one in whole.outcomes] == ["t.1", "t.2", "t.3"]
    assert all((tmp_path / "all" / one.folder / "test.log").is_file() for one in whole.outcomes)
    assert (tmp_path / "all" / "stack.json").is_file()
    assert len(list(ET.parse(tmp_path / "all" / "junit.xml").iter("testcase"))) == 3
    assert len(read_ktap((tmp_path / "all" / "results.ktap").read_text())) == 3


def test_merge_tells_a_missing_shard(tmp_path: Path, capsys: Capture) -> None:
    """A missing shard gives exit code 2, a sentence, and an error in every format."""
    parts = [_shard(tmp_path / f"s{n}", n, outcome(f"t.{n}", Status.PASS)) for n in (1, 2)]
    code, out, err = _report(capsys, "merge", *parts, "--output", tmp_path / "all")
    assert code == 2
    assert err == "shards.3-of-3: Shard 3/3 is missing, so nothing is known of its tests.\n"
    assert out.endswith("MISS: 1 MISS, 2 PASS from 2 folders\n")
    suite = ET.parse(tmp_path / "all" / "junit.xml").find("testsuite")
    assert suite is not None
    assert suite.attrib["errors"] == "1"
    assert [one.ok for one in read_ktap((tmp_path / "all" / "results.ktap").read_text())] == [
        True,
        True,
        False,
    ]


def test_merge_leaves_heavy_files_and_pipes(tmp_path: Path, capsys: Capture) -> None:
    """Snapshots, golden images, links and pipes are not copied; all other files are."""
    part = _shard(tmp_path / "s1", 1, outcome("t", Status.FAIL))
    place = part / "tests" / "t"
    for name in ("01/golden", "01/golden-2", "01/logs"):
        (place / name).mkdir(parents=True)
        (place / name / "file").touch()
    (place / "01" / "vmstate").touch()
    (place / "secret").symlink_to("/etc/hostname")
    os.mkfifo(place / "pipe")
    assert _report(capsys, "merge", part, "--output", tmp_path / "all")[0] == 1
    copied = {
        str(path.relative_to(tmp_path / "all/tests/t")) for path in (tmp_path / "all/tests/t").rglob("*")
    }
    assert copied == {"test.log", "qemu.log", "01", "01/logs", "01/logs/file"}
    assert stat.S_ISFIFO((place / "pipe").stat().st_mode)


def test_merge_refuses(tmp_path: Path, capsys: Capture) -> None:
    """A part without results, and an output folder that holds a run, are refused."""
    part = _shard(tmp_path / "s1", 1, outcome("t", Status.PASS))
    code, _, err = _report(capsys, "merge", part, tmp_path / "no", "--output", tmp_path / "all")
    assert code == 2
    assert err == f"snapproof: There is no results folder '{tmp_path / 'no'}'.\n"
    assert not (tmp_path / "all").exists()
    code, _, err = _report(capsys, "merge", part, "--output", part)
    assert code == 2
    assert "already holds the results of a run" in err


def test_merge_does_without_what_a_killed_shard_left(tmp_path: Path, capsys: Capture) -> None:
    """The other shards are merged; the killed one is MISS, by its folder and by its number."""
    parts = [_shard(tmp_path / f"s{n}", n, outcome(f"t.{n}", Status.PASS)) for n in (1, 2)]
    (tmp_path / "s3" / "tests").mkdir(parents=True)
    code, out, err = _report(capsys, "merge", *parts, tmp_path / "s3", "--output", tmp_path / "all")
    assert code == 2
    assert "its run was ended before it had written its results. Nothing is known of its tests." in err
    assert out.endswith("MISS: 2 MISS, 2 PASS from 2 folders\n")
    code, _, err = _report(capsys, "merge", tmp_path / "s3", "--output", tmp_path / "none")
    assert (code, (tmp_path / "none").exists()) == (2, False)


def test_merge_keeps_what_each_guest_is_made_of(tmp_path: Path, capsys: Capture) -> None:
    """The merged stack.json has the further guests of all shards; a file that is not JSON is left out."""
    parts = [_shard(tmp_path / f"s{n}", n, outcome(f"t.{n}", Status.PASS)) for n in (1, 2, 3)]
    (parts[0] / "stack.json").write_text("nonsense")
    (parts[1] / "stack.json").write_text(json.dumps({"accel": "tcg", "guests": {}}))
    (parts[2] / "stack.json").write_text(json.dumps({"accel": "kvm", "guests": {"linux-5.10": {}}}))
    assert _report(capsys, "merge", *parts, "--output", tmp_path / "all")[0] == 0
    found = json.loads((tmp_path / "all" / "stack.json").read_text())
    assert found == {"accel": "tcg", "guests": {"linux-5.10": {}}}


def test_merge_into_a_part_of_it(tmp_path: Path, capsys: Capture) -> None:
    """An output folder inside a part is refused: the copy would contain itself."""
    part = _shard(tmp_path / "s1", 1, outcome("t", Status.PASS))
    code, _, err = _report(capsys, "merge", part, "--output", part / "tests" / "t" / "all")
    assert code == 2
    assert "lies in the files of" in err


def test_page_elsewhere_links_to_the_results(tmp_path: Path, capsys: Capture) -> None:
    """Links lead from the page's folder to the results, or to --url."""
    placed(tmp_path / "run", result(outcome("a", Status.FAIL)))
    target = tmp_path / "pages" / "report.html"
    target.parent.mkdir()
    words = ["render", str(tmp_path / "run"), "--format", "html", "--output", str(target)]
    assert _report(capsys, *words)[0] == 0
    assert 'href="../run/tests/a/test.log"' in target.read_text()
    assert _report(capsys, *words, "--url", "https://ci.example/logs")[0] == 0
    assert 'href="https://ci.example/logs/tests/a/test.log"' in target.read_text()
    code, _, err = _report(capsys, *words, "--url", "https://ci.example/a|b")
    assert (code, "is not a URL" in err) == (2, True)


def test_merge_on_a_full_disk(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one sentence, and leaves no results.json."""
    part = _shard(tmp_path / "s1", 1, outcome("t", Status.PASS))

    def full(*_words: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", full)
    code, _, err = _report(capsys, "merge", part, "--output", tmp_path / "all")
    assert code == 2
    assert "could not be copied" in err
    assert not (tmp_path / "all" / "results.json").exists()


# compare


def test_compare(tmp_path: Path, capsys: Capture) -> None:
    """The exit code is for `git bisect run` and CI; --json has all of it."""
    placed(tmp_path / "old", result(outcome("a", Status.PASS)))
    placed(tmp_path / "new", result(outcome("a", Status.FAIL, "Page 7.")))
    target = tmp_path / "out.json"
    code, out, _ = _report(capsys, "compare", tmp_path / "old", tmp_path / "new", "--json", target)
    assert code == 1
    assert out.splitlines() == [
        "new failures:",
        "  a (PASS -> FAIL): Page 7.",
        "1 tests compared: 1 new failures",
    ]
    assert json.loads(target.read_text())["new_failures"][0]["test"] == "a"
    assert _report(capsys, "compare", tmp_path / "new", tmp_path / "old")[0] == 0


def test_compare_cannot(tmp_path: Path, capsys: Capture) -> None:
    """The exit code is 2 if there is nothing to compare."""
    placed(tmp_path / "old", result(outcome("a", Status.PASS)))
    placed(tmp_path / "new", result(outcome("b", Status.PASS)))
    for new in ("new", "no"):
        code, out, err = _report(capsys, "compare", tmp_path / "old", tmp_path / new)
        assert (code, out) == (2, "")
        assert err.startswith("snapproof: ")


@pytest.mark.parametrize(
    "words", [("--factor", "0.5"), ("--factor", "nan"), ("--least-ms", "-1"), ("--least-seconds", "x")]
)
def test_thresholds_that_make_no_sense(words: tuple[str, str]) -> None:
    """Argparse refuses them."""
    with pytest.raises(SystemExit) as caught:
        main(["report", "compare", "a", "b", *words])
    assert caught.value.code == 2
