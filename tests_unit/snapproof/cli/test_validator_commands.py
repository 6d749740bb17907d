"""Contract: check, info and diff say what is in a file, and exit as they promise."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from guest_images.agent.format import ThreadWord
from harness.codes import Code
from snapproof.cli.command import main
from snapproof.cli.diff import change_text
from snapproof.cli.progress_bar import ProgressBar, bar_text
from tests_unit.support import tiny_stream as tiny
from tests_unit.support.command_values import command_outcome, right_vmstate
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer, write_golden
from validators import judge
from validators.faults.files import CATALOGUE, apply_fault
from validators.judge import check_file
from validators.vmstate.stream.index import Anomaly, SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import Source
from validators.vmstate.stream_diff import FieldChange

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A right vmstate file."""
    return right_vmstate(tmp_path)


def _with_wrong_pages(good: Path, pages: range) -> Path:
    """A golden image that differs from the file in these pages of pc.ram."""
    writer = Writer(Guest())
    writer.guest.ram[pages.start : pages.stop, 9] ^= np.uint64(1)
    return write_golden(good.parent / "golden", writer)


# check


def test_a_file_called_dash_can_be_named(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """`-` alone is standard input; with a folder before it, it is a file like any other."""
    good.rename(good.with_name("-"))
    monkeypatch.chdir(good.parent)
    assert command_outcome(capsys, "check", "./-")[0] == 0
    assert command_outcome(capsys, "info", ".//-")[0] == 0
    assert command_outcome(capsys, "diff", "./-", good.with_name("-"))[0] == 0


@pytest.mark.parametrize("option", ["--json", "--map"])
def test_a_folder_is_no_output(good: Path, tmp_path: Path, option: str, capsys: Capture) -> None:
    """A name that ends with a slash is that of a folder, so no file is written by that name without it."""
    with pytest.raises(SystemExit) as ended:
        main(["check", str(good), option, f"{tmp_path}/new/"])
    assert ended.value.code == 2
    assert "names a folder" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_many_bad_pages_are_grouped_and_drawn(good: Path, capsys: Capture) -> None:
    """Pages that differ from the golden image come as ranges, and as a map of RAM."""
    golden = _with_wrong_pages(good, range(100, 160))
    code, out, _ = command_outcome(capsys, "check", good, "--golden", golden)
    assert code == 1
    assert "60 bad pages in 1 range:" in out
    assert f"pc.ram 0x{100 * PAGE:x} to 0x{160 * PAGE:x}: 60 pages" in out
    assert "Bad pages in RAM:" in out
    assert "60 bad" in out


def test_check_draws_an_svg_of_all_blocks(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """--map names every RAMBlock, and marks the bad pages."""
    target = tmp_path / "map.svg"
    code, _, _ = command_outcome(
        capsys, "check", good, "--golden", _with_wrong_pages(good, range(7, 8)), "--map", target
    )
    assert code == 1
    root = ElementTree.fromstring(target.read_text())
    text = "".join(root.itertext())
    assert "pc.ram: 1024 KiB, 1 bad pages" in text
    assert "pc.rom" in text


def test_map_replaces_no_folder(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A map is not written over a folder."""
    code, _, err = command_outcome(capsys, "check", good, "--map", tmp_path)
    assert code == 2
    assert "is a folder" in err


def test_check_extracts_a_golden_image(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """The output of --extract serves as --golden for the same file."""
    code, out, _ = command_outcome(capsys, "check", good, "--extract", tmp_path / "out")
    assert code == 0
    assert "extracted pc.ram: 1,048,576 bytes" in out
    assert command_outcome(capsys, "check", good, "--golden", tmp_path / "out")[0] == 0


def test_a_damaged_file_is_judged_though_it_cannot_be_extracted(
    good: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The verdict is printed, the extraction refused in one sentence, and the exit code is 1."""
    good.write_bytes(good.read_bytes()[:5000])
    code, out, err = command_outcome(capsys, "check", good, "--extract", tmp_path / "out")
    assert code == 1
    assert "FAIL truncated" in out
    assert "cannot be extracted" in err


def test_raw_image(tmp_path: Path, capsys: Capture) -> None:
    """Its agent pages are counted, and what was not judged is said."""
    image = tmp_path / "image"
    image.write_bytes(Guest().ram.astype("<u8").tobytes())
    code, out, _ = command_outcome(capsys, "check", "--raw", image)
    assert code == 0 and "agent pages judged: 100\n" in out
    assert "SKIP structure: The file has guest RAM and no vmstate stream" in out
    code, _, err = command_outcome(capsys, "check", image)
    assert code == 2 and "'snapproof check --raw FILE'" in err


def test_raw_takes_neither_a_folder_nor_an_extraction(tmp_path: Path, capsys: Capture) -> None:
    """Both would be passed over without a word."""
    image = tmp_path / "image"
    image.write_bytes(Guest().ram.astype("<u8").tobytes())
    target = tmp_path / "out"
    for arguments in ((tmp_path,), (image, "--extract", target), (image, "--elf", target), ("-",)):
        code, out, err = command_outcome(capsys, "check", "--raw", *arguments)
        assert (code, out) == (2, "") and "--raw" in err
    assert not target.exists()


def test_image_whose_agent_had_gone(tmp_path: Path, capsys: Capture) -> None:
    """Nothing was judged, so it is no success."""
    guest = Guest()
    guest.ram[guest.control_page] = 0
    guest.ram[[4, 5], ThreadWord.NS_PER_TICK] = 1
    image = tmp_path / "image"
    image.write_bytes(guest.ram.astype("<u8").tobytes())
    code, out, _ = command_outcome(capsys, "check", "--raw", image)
    assert code == 4 and "agent pages judged: 0\n" in out and f"SKIP: {image}" in out


def test_check_writes_an_elf_core(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """It is told where RAM lies in it and what it lacks; a second time nothing is replaced."""
    core = tmp_path / "core"
    code, out, _ = command_outcome(capsys, "check", good, "--elf", core)
    assert code == 0
    assert out.splitlines()[-4:] == [
        f"ELF core: {core}",
        "  guest-physical 0x0 to 0x100000: 1,048,576 bytes",
        "  RAM has no vmcoreinfo of Linux, so tools must be told which kernel it is.",
        "  Not in it: pc.rom.",
    ]
    assert core.read_bytes().startswith(b"\x7fELF")
    code, out, err = command_outcome(capsys, "check", good, "--elf", core)
    assert (code, out) == (2, "")
    assert "exists already; name a new file with --elf" in err


def test_a_damaged_file_is_judged_though_it_makes_no_elf_core(
    good: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The verdict is printed, the core refused in one sentence, and the exit code is 1."""
    good.write_bytes(good.read_bytes()[:5000])
    code, out, err = command_outcome(capsys, "check", good, "--elf", tmp_path / "core")
    assert (code, "FAIL truncated" in out) == (1, True)
    assert "cannot be written as an ELF core" in err
    assert not (tmp_path / "core").exists()


def test_an_interrupted_extraction_leaves_nothing(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Half a golden image is never left behind."""

    def interrupted(*_rest: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("validators.vmstate.extract.decode_devices", interrupted)
    code, _, _ = command_outcome(capsys, "check", good, "--extract", tmp_path / "out")
    assert code == 130
    assert not (tmp_path / "out").exists()


def test_a_stream_at_an_offset(good: Path, capsys: Capture) -> None:
    """--offset is decimal or hexadecimal, and never negative."""
    good.write_bytes(bytes(4096) + good.read_bytes())
    assert command_outcome(capsys, "check", good, "--offset", "0x1000")[0] == 0
    assert command_outcome(capsys, "info", good, "--offset", "4096")[0] == 0
    assert command_outcome(capsys, "check", good)[0] == 2
    with pytest.raises(SystemExit) as usage:
        main(["check", str(good), "--offset", "-1"])
    assert usage.value.code == 2


def test_check_reads_a_fifo(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Check judges the structure of a pipe, and leaves out what needs the file twice."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(good.read_bytes()))
    writer.start()
    code, out, _ = command_outcome(capsys, "check", pipe)
    writer.join()
    assert code == 0
    assert "PASS page-missing" in out
    assert "write-order" not in out
    for option in ("--golden", "--extract", "--elf"):
        assert command_outcome(capsys, "check", pipe, option, tmp_path)[0] == 2
    assert command_outcome(capsys, "check", pipe, "--offset", "1")[0] == 2


@pytest.mark.parametrize(("mapped", "code"), [(False, 0), (True, 2)])
@pytest.mark.parametrize("command", ["check", "info"])
def test_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, mapped: bool, code: int, command: str
) -> None:
    """A plain stream is read from standard input; a mapped-ram file is refused, never passed."""
    data = Writer(Guest(), mapped=mapped).stream()
    fake = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", fake)
    found, _, err = command_outcome(capsys, command, "-")
    assert found == code
    assert ("cannot be read from a pipe" in err) == mapped


@pytest.mark.parametrize("command", ["check", "info"])
def test_standard_input_may_be_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, command: str
) -> None:
    """'-' on a terminal would wait for a person to type a snapshot."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    code, _, err = command_outcome(capsys, command, "-")
    assert code == 2
    assert "terminal" in err


def test_what_was_not_read_to_its_end_never_passes(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage that no named rule covers is a violation of its own."""

    def ended(source: Source, offset: int = 0, _ends_file: bool | None = None, **_: Any) -> SnapshotIndex:
        return replace(
            read_index(source, offset), damage=Anomaly(Code.SNAPSHOT_WRONG, "The reading stopped.", 7)
        )

    monkeypatch.setattr(judge, "read_index", ended)
    verdict = check_file(good)
    (found,) = verdict.violations
    assert (found.check, found.code) == ("readable", Code.SNAPSHOT_WRONG)
    assert found.sentence == "The reading stopped."
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
    """A log gets no progress bar, and a terminal's line is cleared at the end."""
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
    code, out, _ = command_outcome(capsys, "info", good, "--json", target)
    assert code == 0
    content = json.loads(target.read_text())
    block = content["blocks"][0]
    assert block["name"] == "pc.ram"
    assert block["data pages"] + block["zero pages"] == 256
    assert block["missing pages"] == 0
    assert [device["name"] for device in content["devices"]] == ["dev0", "dev1", "dev2"]
    assert "machine: pc-i440fx-10.0" in out
    assert "dev1" in out


def test_info_names_iterable_state(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """State that is saved in parts is listed with its sections and bytes, though `info` does not judge it."""
    saved = tmp_path / "saved-after-t0"
    fault = next(fault for fault in CATALOGUE if fault.name == "iterable-state")
    assert apply_fault(good, fault, saved)
    code, out, _ = command_outcome(capsys, "info", saved)
    assert code == 0
    assert "iterable spapr/htab (0): version 1, 1 START, 1 PART, 80 bytes" in out


@pytest.mark.parametrize(("capabilities", "left_out"), [(("x-ignore-shared",), True), ((), False)])
def test_info_says_which_memory_was_left_out(
    tmp_path: Path, capsys: Capture, capabilities: tuple[str, ...], left_out: bool
) -> None:
    """Memory without a page was left out as shared only where the stream has that capability."""
    gpa = bytes(8) if left_out else b""
    file = tmp_path / "file"
    file.write_bytes(
        tiny.HEADER
        + tiny.configuration(tiny.capabilities(*capabilities))
        + tiny.ram_start(("shared", 4 * PAGE, gpa), ("rom", PAGE, gpa))
        + tiny.ram_part(tiny.zero(0, "rom"))
        + tiny.end()
    )
    code, out, _ = command_outcome(capsys, "info", file)
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["shared"].endswith("left out as shared") is left_out
    assert "left out" not in lines["rom"]


def test_info_of_a_damaged_file(good: Path, capsys: Capture) -> None:
    """The readable part is printed, with the offset at which reading stopped; exit code 1."""
    good.write_bytes(good.read_bytes()[:-30000])
    code, out, _ = command_outcome(capsys, "info", good)
    assert code == 1
    assert "pc.ram" in out
    assert "reading stopped at offset" in out


# diff


def test_diff_of_equal_guests_in_two_layouts(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A plain stream and a mapped-ram file of one guest are the same: exit code 0."""
    other = tmp_path / "mapped"
    other.write_bytes(Writer(Guest(), mapped=True).stream())
    assert command_outcome(capsys, "diff", good, other)[:2] == (0, "same\n")


def test_diff_is_bounded_and_complete_in_json(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Exit code 1; the terminal gets 40 ranges, the JSON all of them."""
    guest = Guest()
    guest.ram[20:190:2, 3] += np.uint64(1)
    other, target = tmp_path / "other", tmp_path / "diff.json"
    other.write_bytes(Writer(guest).stream())
    code, out, _ = command_outcome(capsys, "diff", good, other, "--json", target)
    assert code == 1
    assert "RAMBlock pc.ram: 85 pages of other content, in 85 ranges" in out
    assert "... and 45 more ranges; --json has them" in out
    assert out.endswith("different\n")
    assert len(json.loads(target.read_text())["ranges"]) == 85


def test_diff_names_fields_and_blocks(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A changed device field has both values; a block of another length is in one file only."""
    other = tmp_path / "other"
    other.write_bytes(good.read_bytes().replace(b"\0\0\0\x04\0\0\0\x05", b"\0\0\0\x04\0\0\0\x09"))
    assert "dev1 (0).reg[1]: 5 -> 9" in command_outcome(capsys, "diff", good, other)[1]
    other.write_bytes(Writer(Guest(), rom=b"\xaa" * PAGE).stream())
    assert f"only in {other}: RAMBlock pc.rom" in command_outcome(capsys, "diff", good, other)[1]


_STREAM_CHANGES: tuple[tuple[bytes, bytes, str], ...] = (
    (b"pc-i440fx-10.0", b"pc-i440fx-10.1", "machine: pc-i440fx-10.0 -> pc-i440fx-10.1"),
    (b"\x07\0\0\0\x0epc-i440fx-10.0", b"", "configuration: present -> nothing"),
    (b"\4\0\0\0\x0a", b"\x08\0\x0b\0\0\4\0\0\0\x0a", 'commands: [] -> ["SWITCHOVER_START (0 bytes)"]'),
    (b"dev1\0\0\0\0\0\0\0\1", b"dev1\0\0\0\0\0\0\0\2", "section dev1 (0): version 1 -> version 2"),
    (
        b"dev1/extra\0\0\0\1",
        b"dev1/extra\0\0\0\2",
        "subsection 0 of dev1 (0): dev1/extra, version 1 -> dev1/extra, version 2",
    ),
)


@pytest.mark.parametrize(("old", "new", "words"), _STREAM_CHANGES)
def test_diff_sees_what_the_stream_is_made_of(
    good: Path, tmp_path: Path, capsys: Capture, old: bytes, new: bytes, words: str
) -> None:
    """Files whose pages and fields are equal are not the same if QEMU would load them otherwise."""
    other, data = tmp_path / "other", good.read_bytes()
    assert data.count(old) == 1
    other.write_bytes(data.replace(old, new))
    code, out, _ = command_outcome(capsys, "diff", good, other)
    assert (code, out) == (1, f"stream: 1 difference\n  {words}\ndifferent\n")


def test_diff_sees_other_capabilities(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """Capabilities but for mapped-ram, which is the layout, make another stream."""
    capability = b"\5\x1aconfiguration/capabilities\0\0\0\1\0\0\0\1\6events"
    other, data = tmp_path / "other", good.read_bytes()
    other.write_bytes(data.replace(b"\1\0\0\0\2\3ram", capability + b"\1\0\0\0\2\3ram"))
    code, out, _ = command_outcome(capsys, "diff", good, other)
    assert code == 1
    assert 'capabilities: [] -> ["events"]' in out


def test_diff_shows_where_long_values_differ(tmp_path: Path, capsys: Capture) -> None:
    """Values that begin alike are shown from the first difference on; numbers are in hexadecimal too."""
    first, second = tmp_path / "first", tmp_path / "second"
    registers = list(range(1000, 1100))
    first.write_bytes(Writer(Guest(), registers=(registers, [4, 5], [6])).stream())
    registers[70] = 77
    second.write_bytes(Writer(Guest(), registers=(registers, [4, 5], [6])).stream())
    out = command_outcome(capsys, "diff", first, second)[1]
    assert "dev0 (0).reg[70]: 0x42e (1070) -> 0x4d (77)" in out
    change = FieldChange("x", "a" * 100 + "b", "a" * 100 + "c")
    assert change_text(change) == f"x: ...{'a' * 12}b -> ...{'a' * 12}c"


def test_diff_of_streams_at_offsets_and_from_standard_input(
    good: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file has its own offset, and either may be standard input."""
    other = tmp_path / "other"
    other.write_bytes(bytes(300) + good.read_bytes())
    assert command_outcome(capsys, "diff", other, good, "--offset", "300:0")[:2] == (0, "same\n")
    assert command_outcome(capsys, "diff", other, other, "--offset", "0x12c")[:2] == (0, "same\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(good.read_bytes())))
    assert command_outcome(capsys, "diff", "-", good)[:2] == (0, "same\n")
    assert command_outcome(capsys, "diff", "-", "-")[0] == 2


def test_diff_trouble(good: Path, tmp_path: Path, capsys: Capture) -> None:
    """A file that cannot be compared is trouble, not a difference: exit code 2."""
    broken = tmp_path / "broken"
    broken.write_bytes(good.read_bytes()[:5000])
    for other in (broken, tmp_path / "none"):
        code, out, err = command_outcome(capsys, "diff", good, other)
        assert (code, out) == (2, "")
        assert err.startswith("snapproof: ")


# selftest


@pytest.mark.parametrize("words", [["check"], ["info"], ["diff"], ["selftest"], ["bench", "validator"]])
def test_every_command_explains_itself(words: list[str], capsys: Capture) -> None:
    """--help has an example or the exit codes, and ends well."""
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "xample" in out or "Exit codes" in out
