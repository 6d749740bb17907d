"""Contract: selftest and bench validator find what they plant and measure, and exit as they promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snapproof.bench import validator
from snapproof.bench.validator_jobs import JOBS
from snapproof.cli import selftest
from tests_unit.support.command_values import command_outcome, right_vmstate
from tests_unit.support.synthetic_stream import Guest, Writer, write_golden
from validators.faults.files import CATALOGUE, Row
from validators.faults.files.subject import Damage, DamagePlace, Edit, open_subject
from validators.faults.files.workbench import Workbench, write_damaged

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A right vmstate file."""
    return right_vmstate(tmp_path)


def test_selftest_of_a_file(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Every fault is in the table, none is missed, and what needs a restore says so."""
    target = tmp_path / "selftest.json"
    golden = write_golden(tmp_path / "golden", Writer(Guest()))
    code, out, _ = command_outcome(capsys, "selftest", good, "--golden", golden, "--json", target)
    assert code == 0
    assert "0 missed" in out
    assert "1 can only be seen by restoring" in out
    assert "1 not covered: no oracle looks there" in out
    (form,) = json.loads(target.read_text())["forms"]
    assert {row["fault"] for row in form["rows"]} == {fault.name for fault in CATALOGUE}
    assert form["counts"]["caught"] == form["counts"]["placed"] >= 45


def test_selftest_exits_1_where_a_fault_is_missed(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A fault that no check sees is named with its place and its seed."""
    row = Row("page-twisted", "stream", (), False, "page 0x1000 of pc.ram", "", "missed", 17)
    monkeypatch.setattr(selftest, "run_selftest", lambda *_rest, **_more: [row])
    code, out, _ = command_outcome(capsys, "selftest", good)
    assert code == 1
    assert "FAIL: 'page-twisted' at page 0x1000 of pc.ram was missed" in out
    assert "its seed is 17" in out


def test_selftest_wants_a_file_for_a_golden_image(tmp_path: Path, capsys: Capture) -> None:
    """A golden image of nothing is a mistake, found before anything is booted."""
    assert command_outcome(capsys, "selftest", "--golden", tmp_path)[0] == 2


def test_selftest_leaves_nothing_when_interrupted(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Ctrl-C in the middle ends with exit code 130 and no file left."""
    left = tmp_path / "temporary"
    left.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(left))

    def interrupted(*_rest: object, folder: Path, **_more: object) -> None:
        (folder / "copy").write_bytes(b"x")
        raise KeyboardInterrupt

    monkeypatch.setattr(selftest, "run_selftest", interrupted)
    assert command_outcome(capsys, "selftest", good)[0] == 130
    assert list(left.iterdir()) == []


@pytest.mark.parametrize("mapped", [False, True])
def test_workbench_takes_every_fault_out_again(tmp_path: Path, mapped: bool) -> None:
    """A fault planted in place is the fault written as a copy, and leaves the file as it was."""
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(Writer(Guest(), mapped=mapped).stream())
    original = path.read_bytes()
    bench = Workbench(path, tmp_path / "copy")
    with open_subject(path, 1) as subject:
        for number, fault in enumerate(CATALOGUE):
            subject.reseed(number)
            damage = fault.plant(subject)
            if damage is None:
                continue
            write_damaged(path, damage, other)
            with bench.damaged(damage) as damaged:
                assert damaged.read_bytes() == other.read_bytes() != original, fault.name
            assert bench.path.read_bytes() == original, fault.name


def test_workbench_handles_growth_and_shrinkage(tmp_path: Path) -> None:
    """Edits that move what is behind them are taken out too."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(200)))
    bench = Workbench(path, tmp_path / "copy")
    edits = (Edit(10, 5, b""), Edit(50, 1, b"abc"))
    with bench.damaged(Damage(edits, DamagePlace("here"))) as damaged:
        assert damaged.read_bytes() == bytes(range(10)) + bytes(range(15, 50)) + b"abc" + bytes(
            range(51, 200)
        )
    assert bench.path.read_bytes() == path.read_bytes()


# bench


def test_bench_prints_ratios_to_a_plain_read(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Each contender runs in its own process; figures have ratios and peak memory."""
    target = tmp_path / "bench.json"
    words = ("bench", "validator", good, "--repeat", "1", "--versus", "wc -c {file}", "--json", target)
    code, out, _ = command_outcome(capsys, *words)
    assert code == 0
    assert "wc -c {file}" in out
    figures = {entry["name"]: entry for entry in json.loads(target.read_text())["figures"]}
    assert figures["plain read (cat)"]["ratio"] == 1
    assert figures["check: structure, digests"]["peak_mib"] > figures["wc -c {file}"]["peak_mib"]
    assert all(len(entry["seconds"]) == 1 for entry in figures.values())


@pytest.mark.parametrize(
    ("versus", "words"),
    [
        ("cat", "write {file}"),
        ("cat '{file}", "cannot be split"),
        ("false {file}", "ended with exit code 1"),
        ("no-such-reader {file}", "ended with exit code 127"),
    ],
)
def test_bench_refuses_a_reader_that_cannot_be_compared(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, versus: str, words: str
) -> None:
    """A reader that is wrong or fails has no time; one sentence says so."""
    build = validator._contenders

    def only_theirs(*arguments: object) -> list[validator.Contender]:
        made = build(*arguments)  # type: ignore[arg-type]
        return [one for one in made if "snapproof.bench.validator_jobs" not in one.command]

    monkeypatch.setattr(validator, "_contenders", only_theirs)
    code, out, err = command_outcome(capsys, "bench", "validator", good, "--versus", versus)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("job", sorted(JOBS))
def test_bench_jobs_do_their_work(good: Path, tmp_path: Path, job: str) -> None:
    """Each job runs to its end; a golden image or folder is its last argument."""
    writer = Writer(Guest())
    argument = {"golden": write_golden(tmp_path / "golden", writer), "extract": tmp_path / "out"}.get(job, "")
    JOBS[job](good, str(argument))
    assert (tmp_path / "out").exists() == (job == "extract")
