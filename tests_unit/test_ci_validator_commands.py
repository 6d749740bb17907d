"""Contract: check, info, diff, selftest and bench say what is in a file, and exit as they promise."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from ci import selftest
from ci.bench import validator
from ci.bench.work import JOBS
from ci.command import main
from ci.progress_bar import ProgressBar, bar_text
from tests_unit.synthetic_stream import PAGE, Guest, Writer, write_golden
from validators import judge
from validators.faults import CATALOGUE, Row
from validators.faults.subject import Damage, Edit, Place, open_subject
from validators.faults.workbench import Workbench, write_damaged
from validators.judge import check_file
from validators.stream.index import Anomaly, SnapshotIndex
from validators.stream.reader import read_index
from validators.stream.source import Source

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A right vmstate file."""
    path = tmp_path / "vmstate"
    path.write_bytes(Writer(Guest()).stream())
    return path


def _run(capsys: Capture, *words: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _with_wrong_pages(good: Path, pages: range) -> Path:
    """A golden image that differs from the file in these pages of pc.ram."""
    writer = Writer(Guest())
    writer.guest.ram[pages.start : pages.stop, 9] ^= np.uint64(1)
    return write_golden(good.parent / "golden", writer)


# check


def test_many_bad_pages_are_grouped_and_drawn(good: Path, capsys: Capture) -> None:
    """Pages that differ from the golden image come as ranges, and as a map of RAM."""
    golden = _with_wrong_pages(good, range(100, 160))
    code, out, _ = _run(capsys, "check", good, "--golden", golden)
    assert code == 1
    assert "60 bad pages in 1 range:" in out
    assert f"pc.ram 0x{100 * PAGE:x} to 0x{160 * PAGE:x}: 60 pages" in out
    assert "Bad pages in RAM:" in out
    assert "60 bad" in out


def test_check_draws_an_svg_of_all_blocks(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """--map names every RAMBlock, and marks the bad pages."""
    target = tmp_path / "map.svg"
    code, _, _ = _run(
        capsys, "check", good, "--golden", _with_wrong_pages(good, range(7, 8)), "--map", target
    )
    assert code == 1
    root = ElementTree.fromstring(target.read_text())
    text = "".join(root.itertext())
    assert "pc.ram: 1024 KiB, 1 bad pages" in text
    assert "pc.rom" in text


def test_map_replaces_no_device(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A map is not written over what is no regular file."""
    code, _, err = _run(capsys, "check", good, "--map", tmp_path)
    assert code == 2
    assert "is not a regular file" in err


def test_check_extracts_a_golden_image(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """What --extract writes serves as --golden for the same file."""
    code, out, _ = _run(capsys, "check", good, "--extract", tmp_path / "out")
    assert code == 0
    assert "extracted pc.ram: 1,048,576 bytes" in out
    assert _run(capsys, "check", good, "--golden", tmp_path / "out")[0] == 0


def test_a_damaged_file_is_judged_though_it_cannot_be_extracted(
    good: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The verdict is printed, the extraction refused in one sentence, and the exit code is 1."""
    good.write_bytes(good.read_bytes()[:5000])
    code, out, err = _run(capsys, "check", good, "--extract", tmp_path / "out")
    assert code == 1
    assert "FAIL truncated" in out
    assert "cannot be extracted" in err


def test_an_interrupted_extraction_leaves_nothing(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Half a golden image is never left behind."""

    def interrupted(*_rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("validators.extract.decode_devices", interrupted)
    code, _, _ = _run(capsys, "check", good, "--extract", tmp_path / "out")
    assert code == 130
    assert not (tmp_path / "out").exists()


def test_a_stream_at_an_offset(good: Path, capsys: Capture) -> None:
    """--offset is decimal or hexadecimal, and never negative."""
    good.write_bytes(bytes(4096) + good.read_bytes())
    assert _run(capsys, "check", good, "--offset", "0x1000")[0] == 0
    assert _run(capsys, "info", good, "--offset", "4096")[0] == 0
    assert _run(capsys, "check", good)[0] == 2
    with pytest.raises(SystemExit) as usage:
        main(["check", str(good), "--offset", "-1"])
    assert usage.value.code == 2


def test_check_reads_a_fifo(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Of a pipe the structure is judged; nothing that would need the file twice is promised."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(good.read_bytes()))
    writer.start()
    code, out, _ = _run(capsys, "check", pipe)
    writer.join()
    assert code == 0
    assert "PASS page-missing" in out
    assert "write-order" not in out
    for option in ("--golden", "--extract"):
        assert _run(capsys, "check", pipe, option, tmp_path)[0] == 2
    assert _run(capsys, "check", pipe, "--offset", "1")[0] == 2


@pytest.mark.parametrize(("mapped", "code"), [(False, 0), (True, 2)])
@pytest.mark.parametrize("command", ["check", "info"])
def test_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, mapped: bool, code: int, command: str
) -> None:
    """A plain stream is read from standard input; a mapped-ram file is refused, never passed."""
    data = Writer(Guest(), mapped=mapped).stream()
    fake = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", fake)
    found, _, err = _run(capsys, command, "-")
    assert found == code
    assert ("cannot be read from a pipe" in err) == mapped


@pytest.mark.parametrize("command", ["check", "info"])
def test_standard_input_may_be_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, command: str
) -> None:
    """'-' on a terminal would wait for a person to type a snapshot."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    code, _, err = _run(capsys, command, "-")
    assert code == 2
    assert "terminal" in err


def test_what_was_not_read_to_its_end_never_passes(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage that no named rule covers is a violation of its own."""

    def ended(source: Source, offset: int = 0) -> SnapshotIndex:
        return replace(read_index(source, offset), damage=Anomaly("new-rule", "The reading stopped.", 7))

    monkeypatch.setattr(judge, "read_index", ended)
    verdict = check_file(good)
    assert verdict.violations[0].sentence == "The reading stopped."
    assert verdict.status.value == "FAIL"


# progress


def test_progress_covers_every_stage(good: Path, tmp_path: Path) -> None:
    """Every stage begins at 0, ends at its total, and never goes back."""
    calls: list[tuple[str, int, int]] = []
    golden = write_golden(tmp_path / "golden", Writer(Guest()))
    check_file(good, golden=golden, progress=lambda *call: calls.append(call))
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == ["structure", "write-order", "golden"]
    for name in ("structure", "write-order", "golden"):
        done = [call[1] for call in calls if call[0] == name]
        assert done == sorted(done)
        assert done[0] == 0
        assert done[-1] == next(call[2] for call in calls if call[0] == name)


def test_bar_has_rate_and_remaining_time() -> None:
    """Half of 2 GiB in 4 s: 256 MiB/s, and 4 s to go."""
    text = bar_text("structure", 1 << 30, 2 << 30, 4.0)
    assert "50 %" in text
    assert "256 MiB/s" in text
    assert "0:04 left" in text
    assert "100 %" in bar_text("golden", 0, 0, 1.0)


def test_bar_is_for_terminals_only() -> None:
    """Nothing is written to a log, and a terminal's line is cleared at the end."""
    log, terminal = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    for stream in (log, terminal):
        with ProgressBar(stream) as bar:
            bar.update("structure", 5, 10)
    assert log.getvalue() == ""
    assert "50 %" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K")


# info


def test_info_names_blocks_and_devices(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Page counts by kind add up, and every device has its version."""
    target = tmp_path / "info.json"
    code, out, _ = _run(capsys, "info", good, "--json", target)
    assert code == 0
    content = json.loads(target.read_text())
    block = content["blocks"][0]
    assert block["name"] == "pc.ram"
    assert block["data pages"] + block["zero pages"] == 256
    assert block["missing pages"] == 0
    assert [device["name"] for device in content["devices"]] == ["dev0", "dev1", "dev2"]
    assert "machine: pc-i440fx-10.0" in out
    assert "dev1" in out


def test_info_of_a_damaged_file(good: Path, capsys: Capture) -> None:
    """What can be read is printed, with the place where the reading stopped; exit code 1."""
    good.write_bytes(good.read_bytes()[:-30000])
    code, out, _ = _run(capsys, "info", good)
    assert code == 1
    assert "pc.ram" in out
    assert "the reading stopped at offset" in out


# diff


def test_diff_of_equal_guests_in_two_layouts(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A plain stream and a mapped-ram file of one guest are the same: exit code 0."""
    other = tmp_path / "mapped"
    other.write_bytes(Writer(Guest(), mapped=True).stream())
    assert _run(capsys, "diff", good, other)[:2] == (0, "same\n")


def test_diff_is_bounded_and_complete_in_json(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Exit code 1; the terminal gets 40 ranges, the JSON all of them."""
    guest = Guest()
    guest.ram[20:190:2, 3] += np.uint64(1)
    other, target = tmp_path / "other", tmp_path / "diff.json"
    other.write_bytes(Writer(guest).stream())
    code, out, _ = _run(capsys, "diff", good, other, "--json", target)
    assert code == 1
    assert "RAMBlock pc.ram: 85 pages of other content, in 85 ranges" in out
    assert "... and 45 more ranges; --json has them" in out
    assert out.endswith("different\n")
    assert len(json.loads(target.read_text())["ranges"]) == 85


def test_diff_names_fields_and_blocks(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A changed device field has both values; a block of another length is in one file only."""
    other = tmp_path / "other"
    other.write_bytes(good.read_bytes().replace(b"\0\0\0\x04\0\0\0\x05", b"\0\0\0\x04\0\0\0\x09"))
    assert "dev1 (0).reg[1]: 5 -> 9" in _run(capsys, "diff", good, other)[1]
    other.write_bytes(Writer(Guest(), rom=b"\xaa" * PAGE).stream())
    assert f"only in {other}: RAMBlock pc.rom" in _run(capsys, "diff", good, other)[1]


def test_diff_trouble(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A file that cannot be compared is trouble, not a difference: exit code 2."""
    broken = tmp_path / "broken"
    broken.write_bytes(good.read_bytes()[:5000])
    for other in (broken, tmp_path / "none"):
        code, out, err = _run(capsys, "diff", good, other)
        assert (code, out) == (2, "")
        assert err.startswith("snapproof: ")


# selftest


def test_selftest_of_a_file(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Every fault is in the table, none is missed, and what needs a restore says so."""
    target = tmp_path / "selftest.json"
    golden = write_golden(tmp_path / "golden", Writer(Guest()))
    code, out, _ = _run(capsys, "selftest", good, "--golden", golden, "--json", target)
    assert code == 0
    assert "0 missed" in out
    assert "2 can only be seen by restoring" in out
    (form,) = json.loads(target.read_text())["forms"]
    assert {row["fault"] for row in form["rows"]} == {fault.name for fault in CATALOGUE}
    assert form["counts"]["caught"] == form["counts"]["placed"] >= 45


def test_selftest_exits_1_where_a_fault_is_missed(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A fault that no check sees is named with its place and its seed."""
    row = Row("page-twisted", "stream", (), False, "page 0x1000 of pc.ram", "", "missed", 17)
    monkeypatch.setattr(selftest, "run_selftest", lambda *_rest, **_more: [row])
    code, out, _ = _run(capsys, "selftest", good)
    assert code == 1
    assert "FAIL: 'page-twisted' at page 0x1000 of pc.ram was missed" in out
    assert "its seed is 17" in out


def test_selftest_wants_a_file_for_a_golden_image(tmp_path: Path, capsys: Capture) -> None:
    """A golden image of nothing is a mistake, found before anything is booted."""
    assert _run(capsys, "selftest", "--golden", tmp_path)[0] == 2


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
    assert _run(capsys, "selftest", good)[0] == 130
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
    with bench.damaged(Damage(edits, Place("here"))) as damaged:
        assert damaged.read_bytes() == bytes(range(10)) + bytes(range(15, 50)) + b"abc" + bytes(
            range(51, 200)
        )
    assert bench.path.read_bytes() == path.read_bytes()


# bench


def test_bench_prints_ratios_to_a_plain_read(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Each contender runs in its own process; figures have ratios and peak memory."""
    target = tmp_path / "bench.json"
    words = ("bench", "validator", good, "--repeat", "1", "--versus", "wc -c {file}", "--json", target)
    code, out, _ = _run(capsys, *words)
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
        return [c for c in build(*arguments) if "ci.bench.work" not in c.command]  # type: ignore[arg-type]

    monkeypatch.setattr(validator, "_contenders", only_theirs)
    code, out, err = _run(capsys, "bench", "validator", good, "--versus", versus)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("job", sorted(JOBS))
def test_bench_jobs_do_their_work(good: Path, tmp_path: Path, job: str) -> None:
    """Each job runs to its end; a golden image or folder is its last argument."""
    writer = Writer(Guest())
    argument = {"golden": write_golden(tmp_path / "golden", writer), "extract": tmp_path / "out"}.get(job, "")
    JOBS[job](good, str(argument))
    assert (tmp_path / "out").exists() == (job == "extract")


@pytest.mark.parametrize("words", [["check"], ["info"], ["diff"], ["selftest"], ["bench", "validator"]])
def test_every_command_explains_itself(words: list[str], capsys: Capture) -> None:
    """--help has an example or the exit codes, and ends well."""
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "xample" in out or "Exit codes" in out
