"""Contract: the inputs of report.html are read defensively: QMP logs, texts, numbers, names of files."""

from __future__ import annotations

import time
from pathlib import Path

from snapproof.report.html.checked import clean, duration, inside, link, number
from snapproof.report.html.qmp_log import read_qmp_log
from tests_unit.support import report_values as values


def test_qmp_log_of_a_save(tmp_path: Path) -> None:
    """A save has its begin, STOP, RESUME and first report of its end, and the name of its folder."""
    log = tmp_path / "qmp.jsonl"
    log.write_text(values.qmp_lines())
    (save,) = read_qmp_log(log).saves
    assert (save.label, save.named, save.result) == ("01-live", True, "completed")
    assert save.begun == 1000.0 and save.ended == 1001.0
    assert [round(end - start, 6) for start, end in save.stuns] == [0.002]
    assert save.progress == ((1000.5, float(1 << 20)), (1001.0, float(2 << 20)))


def test_guest_stopped_before_its_save_is_stopped_for_it(tmp_path: Path) -> None:
    """STOP before `migrate` and RESUME after its end belong to a stop-and-save; the next save has its own."""
    lines = values.qmp_lines().splitlines()
    log = tmp_path / "qmp.jsonl"
    early = lines[1].replace('"seconds": 1000, "microseconds": 5000', '"seconds": 999, "microseconds": 0')
    late = lines[2].replace('"seconds": 1000, "microseconds": 7000', '"seconds": 1003, "microseconds": 0')
    assert early != lines[1] and late != lines[2]
    second = values.qmp_lines("exec:cat > /dev/null", begin=2000.0)
    log.write_text("\n".join([early, lines[0], *lines[3:], late, second]))
    first, other = read_qmp_log(log).saves
    assert first.stuns == ((999.0, 1003.0),)
    assert (other.label, other.named) == ("save 2", False)
    assert [round(end - start, 6) for start, end in other.stuns] == [0.002]


def test_damaged_qmp_log_gives_what_it_has(tmp_path: Path) -> None:
    """Lines that are cut off, not JSON, of another shape or too long are left out."""
    good = values.qmp_lines().splitlines()
    odd = [
        '{"time": 1, "msg": {"event": "STOP"', '["STOP"]', '{"time": "x", "msg": {"event": "STOP"}}',
        "\x00\xff STOP",
        '{"time": 1, "dir": "in", "msg": {"event": "STOP", "timestamp": {"seconds": "x"}}}',
        '{"time": 1, "dir": "out", "msg": {"execute": "migrate", "arguments": 3}}',
        '{"time": 1, "msg": ' + "[" * 100_000 + '"STOP"', "x" * (3 << 20) + '"STOP"',
    ]  # fmt: skip
    log = tmp_path / "qmp.jsonl"
    log.write_text("\n".join([*odd, *good]), encoding="latin-1")
    saves = read_qmp_log(log).saves
    assert [save.label for save in saves] == ["save 1", "01-live"]
    assert saves[1].result == "completed"
    assert read_qmp_log(tmp_path / "none").saves == []
    assert read_qmp_log(tmp_path).saves == []


def test_long_save_is_thinned_out(tmp_path: Path) -> None:
    """The chart keeps some hundreds of the thousands of answers during a long save."""
    lines = values.qmp_lines().splitlines()
    log = tmp_path / "qmp.jsonl"
    log.write_text("\n".join([*lines[:3], *([lines[3]] * 5000), lines[4]]))
    (save,) = read_qmp_log(log).saves
    assert 300 < len(save.progress) < 900
    assert save.progress[-1] == (1001.0, float(2 << 20))


def test_text_is_cut_and_cleaned() -> None:
    """Escapes and control characters are removed, a long text ends with its length, and all is fast."""
    assert clean("a\x1b[1;31mb\x1b]0;title\x07c\r\nd\x00e") == "abc\nd\ufffde"
    assert clean(None) == "" and clean(7) == "7"
    assert clean("y" * 700) == "y" * 600 + " … (700 characters)"
    begun = time.process_time()
    assert len(clean("\x1b]" * (1 << 20))) < 700
    assert time.process_time() - begun < 2


def test_numbers_and_times() -> None:
    """A value that is not a number gives the default; times have one or two units."""
    assert [number(value) for value in (3, 2.5, True, "7", None, float("inf"), 10**400)] == [
        3,
        2.5,
        0,
        0,
        0,
        0,
        0,
    ]
    assert [duration(seconds) for seconds in (0.25, 59.4, 61, 4321)] == [
        "0.2 s",
        "59 s",
        "1 min 1 s",
        "1 h 12 min",
    ]


def test_names_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    """The report opens only files below the folder."""
    (tmp_path / "a b").mkdir()
    found = inside(tmp_path, "a b")
    assert found is not None and link(tmp_path, found, "./") == "./a%20b"
    for name in ("..", "/etc", "a/../..", "", None, 3, "none", "\0", "a" * 2000):
        assert inside(tmp_path, name) is None
