"""Contract: no output of a command replaces an input or a device, under any of its names."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.status import Status
from snapproof.report.run_result import RunResult
from snapproof.runs.outputs import require_outputs
from snapproof.runs.results_folder import write_results
from tests_unit.support.command_values import command_outcome, right_vmstate
from tests_unit.support.scenario_values import outcome
from tests_unit.support.synthetic_stream import Guest, Writer, write_golden

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A right vmstate file."""
    return right_vmstate(tmp_path)


def _itself(path: Path, _folder: Path) -> Path:
    return path


def _other_path(path: Path, _folder: Path) -> Path:
    return path.parent / ".." / path.parent.name / path.name


def _link(path: Path, folder: Path) -> Path:
    (folder / "link").symlink_to(path)
    return folder / "link"


def _link_to_link(path: Path, folder: Path) -> Path:
    (folder / "second").symlink_to(_link(path, folder).name)
    return folder / "second"


def _hard_link(path: Path, folder: Path) -> Path:
    (folder / "hard").hardlink_to(path)
    return folder / "hard"


def _descriptor(path: Path, _folder: Path) -> Path:
    return Path(f"/proc/self/fd/{os.open(path, os.O_RDWR)}")


_WAYS = (_itself, _other_path, _link, _link_to_link, _hard_link, _descriptor)


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize(
    "words",
    ["check F --json", "check F --map", "check F --extract new --json", "info F --json", "diff F B --json",
     "check F --elf", "diff B F --json", "selftest F --json", "bench validator F --json",
     "run --disk F --events", "run --kernel F --events", "check B --golden F --json",
     "kernel --host vm:F --json"],
)  # fmt: skip
def test_an_output_is_no_input(
    good: Path, tmp_path: Path, capsys: Capture, words: str, way: Callable[[Path, Path], Path]
) -> None:
    """It is refused with exit code 2 before anything is written, and the input stays as it was."""
    before = good.read_bytes()
    other = tmp_path / "other"
    other.write_bytes(before)
    named = [word.replace("vm:F", f"vm:{good}") for word in words.split()]
    places = {"F": good, "B": other, "new": tmp_path / "new"}
    target = way(good, tmp_path)
    code, _, err = command_outcome(capsys, *(places.get(word, word) for word in named), target)
    assert code == 2
    assert "is an input" in err
    assert good.read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_input_behind_standard_input(good: Path) -> None:
    """The file that '-' reads is an input too."""
    before = good.read_bytes()
    with good.open("rb") as stream:
        ended = _snapproof("check", "-", "--json", str(good), stdin=stream)
    assert ended.returncode == 2
    assert good.read_bytes() == before


@pytest.mark.parametrize("words", ["check F", "info F", "diff B F", "check -"])
def test_nothing_is_printed_into_an_input(good: Path, tmp_path: Path, words: str) -> None:
    """Standard output appended to an input is refused, as by cat(1); to another file it is not."""
    before = good.read_bytes()
    other = tmp_path / "other"
    other.write_bytes(before)
    places = {"F": str(good), "B": str(other)}
    named = [places.get(word, word) for word in words.split()]
    with good.open("rb") as stream, good.open("ab") as out:
        ended = _snapproof(*named, stdin=stream, stdout=out)
    assert ended.returncode == 2
    assert "is an input" in ended.stderr
    assert good.read_bytes() == before


def test_a_file_that_is_printed_to_is_not_replaced(good: Path, tmp_path: Path) -> None:
    """What stands in it would be lost, and so would what is printed after it."""
    log = tmp_path / "log"
    log.write_text("earlier\n")
    with log.open("a") as out:
        ended = _snapproof("check", str(good), "--json", str(log), stdout=out)
    assert (ended.returncode, log.read_text()) == (2, "earlier\n")
    assert "--json" in ended.stderr


@pytest.mark.parametrize("name", ["golden.json", "block-000.ram"])
def test_files_of_a_golden_image_are_inputs(good: Path, tmp_path: Path, capsys: Capture, name: str) -> None:
    """Each file in its folder counts, and stays as it was."""
    golden = write_golden(tmp_path / "golden", Writer(Guest()))
    victim = next(path for path in golden.iterdir() if path.name == name or path.suffix == Path(name).suffix)
    before = victim.read_bytes()
    code, _, err = command_outcome(capsys, "check", good, "--golden", golden, "--map", victim)
    assert (code, "is an input" in err) == (2, True)
    assert victim.read_bytes() == before


def test_extraction_replaces_nothing(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A golden image stays, and no link in the folder is followed; other files in it do not matter."""
    golden = write_golden(tmp_path / "golden", Writer(Guest()))
    before = {path: path.read_bytes() for path in golden.iterdir()}
    code, _, err = command_outcome(capsys, "check", good, "--golden", golden, "--extract", golden)
    assert (code, "already holds" in err) == (2, True)
    assert {path: path.read_bytes() for path in golden.iterdir()} == before
    for name in ("block-000.ram", "devices.json", "golden.json"):
        folder, victim = tmp_path / f"for-{name}", tmp_path / "victim"
        folder.mkdir()
        (folder / name).symlink_to(victim)
        assert command_outcome(capsys, "check", good, "--extract", folder)[0] == 2
        assert not victim.exists()
        assert [path.name for path in folder.iterdir()] == [name]
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    assert command_outcome(capsys, "check", good, "--extract", tmp_path / "used")[0] == 0


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF\2\1\1\0"])
def test_an_elf_core_replaces_nothing(good: Path, tmp_path: Path, capsys: Capture, content: bytes) -> None:
    """No file at all, also no earlier core, and no link, before anything is judged."""
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_bytes(content)
    link.symlink_to(tmp_path / "nowhere")
    for path in (victim, link):
        code, out, err = command_outcome(capsys, "check", good, "--elf", path)
        assert (code, out, "exists already; name a new file with --elf" in err) == (2, "", True)
    assert victim.read_bytes() == content
    assert not (tmp_path / "nowhere").exists()


def test_outputs_replace_no_output(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Two options with one file, and a file that an extraction makes, are refused."""
    out = tmp_path / "out"
    code, _, err = command_outcome(capsys, "check", good, "--json", out, "--map", out)
    assert (code, "name the same file" in err) == (2, True)
    (tmp_path / "new").mkdir()
    place = tmp_path / "new" / "golden.json"
    code, _, err = command_outcome(capsys, "check", good, "--json", place, "--extract", place.parent)
    assert (code, "--extract would write" in err) == (2, True)
    code, _, err = command_outcome(capsys, "check", good, "--elf", place, "--extract", place.parent)
    assert (code, "--extract would write" in err) == (2, True)
    code, _, err = command_outcome(capsys, "check", good, "--elf", place, "--json", place)
    assert (code, "name the same file" in err) == (2, True)
    assert not place.exists()


def test_results_are_inputs_of_a_report(tmp_path: Path, capsys: Capture) -> None:
    """A report does not overwrite the files that it is made from; a report beside them may be replaced."""
    write_results(
        tmp_path, RunResult([outcome("t", Status.PASS)], "2026-01-02T03:04:05+00:00", 1.0, ["x"], {})
    )
    log = tmp_path / "tests" / "t" / "test.log"
    log.parent.mkdir(parents=True)
    log.write_text("a log")
    for victim in (tmp_path / "results.json", log):
        before = victim.read_bytes()
        words = ("report", "render", tmp_path, "--format", "ktap", "--output", victim)
        assert command_outcome(capsys, *words)[0] == 2
        assert command_outcome(capsys, "report", "compare", tmp_path, tmp_path, "--json", victim)[0] == 2
        assert victim.read_bytes() == before
    words = ("report", "render", tmp_path, "--format", "ktap", "--output", tmp_path / "results.ktap")
    assert command_outcome(capsys, *words)[0] == 0


@pytest.mark.parametrize("name", ["report.html", "junit.xml", "stack.json"])
def test_results_overwrite_no_file(tmp_path: Path, capsys: Capture, name: str) -> None:
    """A folder that holds a file by the name of one of ours is refused."""
    (tmp_path / name).write_text("mine")
    for command in (["run"], ["hosts"], ["bench", "downtime"]):
        code, _, err = command_outcome(capsys, *command, "--results", tmp_path)
        assert (code, "would be overwritten" in err) == (2, True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_link_is_followed_and_stays(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A link to a plain file stays one; the file is made or replaced, and keeps its mode."""
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "verdict.json"
    link = tmp_path / "link"
    link.symlink_to(target)
    assert command_outcome(capsys, "check", good, "--json", link)[0] == 0
    target.chmod(0o600)
    assert command_outcome(capsys, "info", good, "--json", link)[0] == 0
    assert link.is_symlink()
    assert '"RAM sections"' in target.read_text()
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(target.parent.iterdir()) == [target]


def test_pipe_is_written_to(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A named pipe gets the text and stays a pipe."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert command_outcome(capsys, "check", good, "--json", pipe)[0] == 0
    reader.join()
    assert '"status": "PASS"' in read[0]
    assert pipe.is_fifo()


def _snapproof(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snapproof.cli.command", *words]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, text=True, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    )


@pytest.mark.parametrize("redirected", [False, True])
def test_link_to_standard_output_is_written_to(good: Path, tmp_path: Path, redirected: bool) -> None:
    """A link such as /dev/stdout stays one, and nothing that is printed is lost, be it a pipe or a file."""
    link = tmp_path / "stdout"
    link.symlink_to("/proc/self/fd/1")
    if redirected:
        with (tmp_path / "out").open("w") as out:
            assert _snapproof("check", str(good), "--json", str(link), stdout=out).returncode == 0
        text = (tmp_path / "out").read_text()
    else:
        text = _snapproof("check", str(good), "--json", str(link)).stdout
    assert link.is_symlink()
    assert '"status": "PASS"' in text
    assert text.endswith(f"PASS: {good}\n")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")
@pytest.mark.parametrize(("minor", "code"), [(3, 0), (7, 2)], ids=["null", "full"])
def test_device_is_written_to(good: Path, tmp_path: Path, capsys: Capture, minor: int, code: int) -> None:
    """A /dev/null stays what it is, and a /dev/full is an error with a sentence."""
    device = tmp_path / "device"
    try:
        os.mknod(device, 0o666 | 0o020000, os.makedev(1, minor))
        device.open("rb").close()
    except PermissionError:
        pytest.skip("This environment forbids devices.")
    found, _, err = command_outcome(capsys, "check", good, "--json", device)
    assert (found, "No space left" in err) == (code, code == 2)
    assert device.is_char_device()


@pytest.mark.parametrize("head", [b"QEVM\0\0\0\3", b"\x1f\x8b\x08", b"QFI\xfb", b"\x7fELF\2\1\1\0"])
@pytest.mark.parametrize("option", ["--json", "--map"])
def test_data_is_not_replaced(tmp_path: Path, head: bytes, option: str) -> None:
    """A snapshot that is named by mistake is not lost; text is replaced, also with half a character."""
    path = tmp_path / "other"
    path.write_bytes(head)
    given = {"file": tmp_path / "vmstate", option[2:]: path}
    with pytest.raises(UsageError, match="which is no text"):
        require_outputs(given)
    path.write_bytes(b"{" + "\u00e9".encode() * 256)
    require_outputs(given)
    path.write_bytes(b"")
    require_outputs(given)
