"""Contract: check and info of a folder miss no vmstate file below it, and say what is wrong with each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import MachineryMissing, SetupBroken, UsageError
from snapproof.cli import vmstate_folder
from tests_unit.support.command_values import command_outcome, right_vmstate
from tests_unit.support.containers import qcow2
from tests_unit.support.synthetic_stream import Guest, Writer, write_golden
from validators.judge import check_file
from validators.vmstate.containers.opening import holds_stream, open_stream

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with three right files in folders of their own, a link to one of them, and a text."""
    for name in ("a", "b/c", "d"):
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        right_vmstate(folder)
    (tmp_path / "results" / "text").write_text("QEV")
    (tmp_path / "results" / "link").symlink_to(tmp_path / "results/a/vmstate")
    return tmp_path / "results"


def test_right_files(results: Path, capsys: Capture) -> None:
    """A line for each, in order of their paths, and none for a link or another file."""
    code, out, _ = command_outcome(capsys, "check", results)
    assert code == 0
    assert out.splitlines() == [
        "PASS  a/vmstate",
        "PASS  b/c/vmstate",
        "PASS  d/vmstate",
        "3 vmstate files: 3 PASS; 1 other file.",
    ]
    code, out, _ = command_outcome(capsys, "info", results)
    assert code == 0
    assert len(out.splitlines()) == 3
    assert out.startswith("a/vmstate: pc-i440fx-") and ", background, stream, " in out
    assert "data pages, " in out and "damaged" not in out


@pytest.mark.parametrize("unreadable", ["image", "text"])
def test_file_that_cannot_be_read(
    results: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, unreadable: str
) -> None:
    """It gets its own line and makes the exit code 2; the files behind it are described all the same."""
    if unreadable == "image":
        name = "b/c/vmstate"
        (results / name).write_bytes(b"QFI\xfb" + bytes(508))
    else:
        name = "text"
        monkeypatch.setattr(vmstate_folder, "holds_stream", _refusing)
    code, out, _ = command_outcome(capsys, "info", results, "--json", tmp_path / "info.json")
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert code == 2
    assert lines[name].startswith("not read: ")
    assert ", background, stream, " in lines["d/vmstate"]
    files = json.loads((tmp_path / "info.json").read_text())["files"]
    assert ["error" in one for one in files] == [one["name"] == name for one in files]


def _refusing(path: Path) -> bool:
    """Tell what the file is, but for one that has no permission, which root always has."""
    if path.name == "text":
        raise UsageError(f"The file '{path}' cannot be read: Permission denied.")
    return holds_stream(path)


def test_damaged_file(results: Path, tmp_path: Path, capsys: Capture) -> None:
    """It is named with the check that it fails, and the worst file decides the exit code."""
    cut = results / "b/c/vmstate"
    cut.write_bytes(cut.read_bytes()[:5000])
    code, out, _ = command_outcome(capsys, "check", results, "--json", tmp_path / "out.json")
    assert code == 1
    assert "FAIL  b/c/vmstate\n        truncated: The file ends at offset 5000" in out
    assert "3 vmstate files: 1 FAIL, 2 PASS; 1 other file." in out
    content = json.loads((tmp_path / "out.json").read_text())
    assert (content["version"], content["others"]) == (1, 1)
    assert [entry["status"] for entry in content["files"]] == ["PASS", "FAIL", "PASS"]
    (failed,) = content["files"][1]["failed"]
    assert (failed["check"], failed["code"], failed["total"]) == ("truncated", "truncated.record", 1)
    code, out, _ = command_outcome(capsys, "info", results, "--json", tmp_path / "info.json")
    assert code == 1
    assert "unknown, stream" in out and "damaged at offset " in out
    assert len(json.loads((tmp_path / "info.json").read_text())["files"]) == 3


def test_golden_image_beside_a_file(results: Path, capsys: Capture) -> None:
    """It is compared without being named, and only with the file beside it."""
    writer = Writer(Guest())
    writer.guest.ram[7:9, 9] ^= np.uint64(1)
    write_golden(results / "d/golden", writer)
    code, out, _ = command_outcome(capsys, "check", results)
    assert code == 1
    assert "PASS  a/vmstate\n" in out
    assert "FAIL  d/vmstate (with its golden image)\n        golden: Page 0x7000 " in out
    assert "... and 1 more" in out


def test_file_that_cannot_be_judged(results: Path, capsys: Capture) -> None:
    """A golden image that cannot be used is exit code 2, and the other files are judged."""
    (results / "a/golden").mkdir()
    (results / "a/golden/golden.json").write_text("{")
    code, out, _ = command_outcome(capsys, "check", results)
    assert code == 2
    assert "ERROR a/vmstate (with its golden image)\n        " in out
    assert "3 vmstate files: 1 ERROR, 2 PASS" in out


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (qcow2(("a", b"QEVM"), crypt=1), "is encrypted"),
        (qcow2(("a", b"QEVM"), features=1 << 2), "data in another file"),
        (qcow2(("a", b"QEVM"), version=1), "version 1"),
    ],
)
def test_image_that_cannot_be_read(results: Path, capsys: Capture, image: bytes, told: str) -> None:
    """It is a line of its own, and the other files are judged."""
    (results / "a/image").write_bytes(image)
    code, out, _ = command_outcome(capsys, "check", results)
    assert code == 2
    assert "ERROR a/image\n        The qcow" in out and told in out
    assert "4 vmstate files: 1 ERROR, 3 PASS; 1 other file." in out


@pytest.mark.parametrize(
    "error",
    [
        SetupBroken("No space is left in the folder for temporary files."),
        MachineryMissing("There is no libzstd here."),
        FileNotFoundError(2, "No such file or directory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_keeps_one_file_from_being_read(
    results: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It is told in the line of that file, and those behind it are judged and described."""

    def broken(name: str, function: Callable[..., Any]) -> None:
        def call(path: Path, *arguments: Any, **options: Any) -> Any:
            if path.parent.name == "a":
                raise error
            return function(path, *arguments, **options)

        monkeypatch.setattr(vmstate_folder, name, call)

    broken("check_file", check_file)
    broken("open_stream", open_stream)
    code, out, _ = command_outcome(capsys, "check", results)
    assert code == 2
    assert out.startswith("ERROR a/vmstate\n        ")
    assert "3 vmstate files: 1 ERROR, 2 PASS" in out
    code, out, _ = command_outcome(capsys, "info", results)
    assert code == 2
    assert out.startswith("a/vmstate: not read: ") and "\nd/vmstate: pc" in out


@pytest.mark.parametrize(
    "option", [("--golden", "x"), ("--offset", "8"), ("--extract", "x"), ("--elf", "x"), ("--map", "x")]
)
def test_options_for_one_file(results: Path, option: tuple[str, str], capsys: Capture) -> None:
    """They would be ignored."""
    code, _, err = command_outcome(capsys, "check", results, *option)
    assert (code, option[0] in err, "is a folder" in err) == (2, True, True)


def test_info_takes_no_offset_of_a_folder(results: Path, capsys: Capture) -> None:
    """It is of one file."""
    code, _, err = command_outcome(capsys, "info", results, "--offset", "8")
    assert (code, "--offset is for one file" in err) == (2, True)
