"""Contract: bad input to the command is one sentence and the right exit code, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from snapproof.cli import check
from snapproof.cli.command import main
from snapproof.runs import interruption, matrix
from tests_unit.support.synthetic_stream import Guest, Writer, write_golden


@pytest.fixture(autouse=True)
def _restore_sigterm() -> Iterator[None]:
    """The command takes SIGTERM and SIGHUP for itself."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A right vmstate file."""
    path = tmp_path / "vmstate"
    path.write_bytes(Writer(Guest()).stream())
    return path


def _refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one sentence with which the command refuses these words; it must exit with 2.

    Lines that are led by spaces quote what another program said.
    """
    assert main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if not line.startswith("    ")]
    assert line.startswith("snapproof: ")
    assert line.endswith(".")
    return line.removeprefix("snapproof: ")


def test_right_file(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and the last line is the verdict."""
    assert main(["check", str(good)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"PASS: {good}"
    assert any("PASS write-order:" in line for line in lines)


def test_truncated_file(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file cut in the middle of RAM is wrong: exit code 1, and the verdict says where it ends."""
    good.write_bytes(good.read_bytes()[:300_000])
    assert main(["check", str(good)]) == 1
    out = capsys.readouterr().out
    assert "The file ends at offset 300000" in out
    assert "SKIP write-order: The stream is damaged" in out
    assert out.splitlines()[-1] == f"FAIL: {good}"


def test_golden_mismatch_names_the_page(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A word that differs from the golden image gives exit code 1 and the page's place."""
    guest = Guest()
    golden = write_golden(tmp_path / "golden", Writer(guest))
    assert main(["check", str(good), "--golden", str(golden)]) == 0
    guest.ram[205, 17] ^= np.uint64(1)
    good.write_bytes(Writer(guest).stream())
    capsys.readouterr()
    assert main(["check", str(good), "--golden", str(golden)]) == 1
    out = capsys.readouterr().out
    assert "FAIL golden:" in out
    assert f"{205 * 4096:#x}" in out
    assert "pc.ram" in out


def test_json_holds_the_whole_verdict(good: Path, tmp_path: Path) -> None:
    """OUT is replaced by a parseable verdict, and no draft stays beside it."""
    target = tmp_path / "out" / "verdict.json"
    target.parent.mkdir()
    target.write_text("old")
    good.write_bytes(good.read_bytes()[:300_000])
    assert main(["check", str(good), "--json", str(target)]) == 1
    verdict = json.loads(target.read_text())
    assert verdict["status"] == "FAIL"
    assert [entry["name"] for entry in verdict["checks"] if entry["status"] == "FAIL"] == ["truncated"]
    assert list(target.parent.iterdir()) == [target]


def test_json_that_cannot_be_written(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder, a file as folder, a folder as OUT, the root: one sentence each, no draft."""
    before = sorted(tmp_path.iterdir())
    assert "There is no folder" in _refused(capsys, "check", good, "--json", tmp_path / "none" / "out.json")
    assert "There is no folder" in _refused(capsys, "check", good, "--json", good / "out.json")
    for folder in (tmp_path, "/", "."):
        assert "is a folder" in _refused(capsys, "check", good, "--json", folder)
    assert sorted(tmp_path.iterdir()) == before


def test_files_that_are_no_vmstate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, a folder, empty, text, a name that cannot be: none of them is a failed snapshot."""
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello, world\n" * 100)
    assert "does not exist" in _refused(capsys, "check", tmp_path / "none")
    assert "None of the 2 files below" in _refused(capsys, "check", tmp_path)
    assert "None of the 2 files below" in _refused(capsys, "info", tmp_path)
    assert "is empty" in _refused(capsys, "check", tmp_path / "empty")
    assert "no vmstate stream" in _refused(capsys, "check", tmp_path / "text")
    assert "File name too long" in _refused(capsys, "check", tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything, whatever the mode")
def test_unreadable_file(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file without read permission."""
    good.chmod(0)
    assert "cannot be" in _refused(capsys, "check", good)


def test_unusable_golden_image(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A golden image that is missing or no image is the user's mistake, not a difference."""
    assert "No such file" in _refused(capsys, "check", good, "--golden", tmp_path / "none")
    assert "golden.json" in _refused(capsys, "check", good, "--golden", tmp_path)


def test_broken_disk(good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An I/O error of the disk that FILE is on is no verdict over the snapshot."""

    def fail(*_rest: object, **_more: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(check, "check_file", fail)
    assert "cannot be read: Input/output error" in _refused(capsys, "check", good)


def test_unknown_profile_and_filter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are refused before anything is made."""
    folder = tmp_path / "results"
    assert "no profile 'dawn'" in _refused(capsys, "run", "--profile", "dawn", "--results", folder)
    assert "matches the filter 'x'" in _refused(capsys, "run", "--filter", "x", "--results", folder)
    assert not folder.exists()


def test_unusable_results_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the way and a folder with results are refused before anything is fetched."""
    (tmp_path / "file").touch()
    assert "File exists" in _refused(capsys, "run", "--results", tmp_path / "file")
    (tmp_path / "results.json").touch()
    assert "already holds" in _refused(capsys, "run", "--results", tmp_path)


@pytest.mark.parametrize(
    ("qemu", "sentence"),
    [("/no/such/qemu", "does not exist"), ("/bin/true", "is not a QEMU"), (__file__, "is not executable")],
)
def test_qemu_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], qemu: str, sentence: str
) -> None:
    """A missing or foreign `--qemu` is one sentence, and leaves no results folder."""
    folder, cache = tmp_path / "results", tmp_path / "cache"
    assert sentence in _refused(capsys, "run", "--qemu", qemu, "--results", folder, "--cache", cache)
    assert not folder.exists()


def test_full_disk_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of the operating system outside any test is a sentence too, not exit code 1."""

    def full(*_rest: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(matrix, "prepare_stack", full)
    assert "No space left on device" in _refused(capsys, "run", "--results", tmp_path / "results")


@pytest.fixture
def hangup() -> Iterator[None]:
    """Let SIGHUP end a process, as it does unless `nohup` has started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interruption(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """Ctrl-C, SIGTERM and SIGHUP in mid-run: exit code 130 and one line."""
    monkeypatch.setattr(check, "check_file", lambda *_rest, **_more: signal.raise_signal(number))
    assert main(["check", str(good)]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "snapproof: Interrupted; everything it started has been ended.\n"


@pytest.mark.usefixtures("hangup")
def test_nohup_is_respected() -> None:
    """A command that `nohup` has started goes on when its terminal is closed."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interruption.listen()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_reader_that_goes_away(good: Path) -> None:
    """`snapproof check FILE | head` complains about nothing, and is no pass."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-u", "-m", "snapproof.cli.command", "check", str(good)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 2
    assert done.stderr == ""


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Words that argparse refuses end with 2 as well."""
    for words in ([], ["nonsense"], ["check"], ["run", "--accel", "xen"], ["run", "--repeat", "0"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    assert "usage: snapproof" in capsys.readouterr().err
