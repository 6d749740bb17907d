"""Contract: every planted fault is caught and placed; extraction, diff and maps agree with the stream."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from harness.codes import Code
from harness.errors import UsageError
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer, device, write_golden
from validators.faults.files import CATALOGUE, apply_fault, run_selftest
from validators.judge import check_file
from validators.page_map import svg_map, terminal_map
from validators.verdict import group_ranges
from validators.vmstate.diff import diff_files
from validators.vmstate.extract import extract


def test_catalogue_is_large_and_unambiguous() -> None:
    """At least 30 faults, each with its own name and one line of explanation."""
    assert len(CATALOGUE) >= 30
    assert len({fault.name for fault in CATALOGUE}) == len(CATALOGUE)
    assert all(fault.explanation.endswith(".") for fault in CATALOGUE)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("seed", [1, 1000])
def test_every_fault_is_caught_and_placed(tmp_path: Path, mapped: bool, seed: int) -> None:
    """The golden image misses only faults that no offline check can see in principle."""
    writer = Writer(Guest(pattern=1, ram_pages=320), mapped=mapped)
    path = tmp_path / "file"
    path.write_bytes(writer.stream_with([_vcpu("env.regs", "env.pc")]))
    rows = run_selftest(path, write_golden(tmp_path / "golden", writer), seed=seed)
    outcomes = {row.fault: row.outcome for row in rows}
    assert "missed" not in outcomes.values(), [row for row in rows if row.outcome == "missed"]
    assert {name for name, outcome in outcomes.items() if outcome == "needs restore"} == {
        "vcpu-bit-flip",
        "machine-renamed",
    }
    caught = [row for row in rows if row.outcome == "caught"]
    assert len(caught) >= 45
    assert not [row for row in caught if not row.placed]
    assert {name for name, outcome in outcomes.items() if outcome == "not covered"} <= {"device-bit-flip"}


def _vcpu(*fields: str) -> tuple[bytes, dict[str, Any]]:
    """Return the section of a vCPU with fields of 64 bits, and its vmdesc entry."""
    section, entry = device(20, "cpu", [0] * (2 * len(fields)))
    entry["fields"] = [{"name": name, "type": "uint64", "size": 8} for name in fields]
    return section, entry


@pytest.mark.parametrize(
    ("fields", "number", "bit"),
    [
        (("env.regs", "env.eip", "env.cr[3]"), 2, 31),
        (("env.regs", "env.psw.mask", "env.psw.addr"), 2, 62),
        (("env.xregs", "env.pc"), 1, 62),
        (("env.nip", "env.msr"), 0, 40),
    ],
)
def test_vital_bit_of_each_architecture(
    tmp_path: Path, fields: tuple[str, ...], number: int, bit: int
) -> None:
    """The page table address of x86, the program counter of others; not a field that no guest would miss.

    On s390x the storage keys were chosen, and on a 32-bit x86 a bit of CR3 that its processor ignores.
    """
    path, damaged = tmp_path / "file", tmp_path / "damaged"
    path.write_bytes(Writer(Guest()).stream_with([_vcpu(*fields)]))
    fault = next(fault for fault in CATALOGUE if fault.name == "vcpu-bit-flip")
    assert apply_fault(path, fault, damaged)
    before, after = path.read_bytes(), damaged.read_bytes()
    start = before.index(b"\x03cpu") + 4 + 8
    words = [struct.unpack_from(f">{len(fields)}Q", data, start) for data in (before, after)]
    flipped = [old ^ new for old, new in zip(*words, strict=True)]
    assert flipped == [1 << bit if place == number else 0 for place in range(len(fields))]
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_vital_bit_of_an_unknown_processor(tmp_path: Path) -> None:
    """The fault does not apply to it; any other field of it would prove nothing."""
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest()).stream_with([_vcpu("env.regs")]))
    fault = next(fault for fault in CATALOGUE if fault.name == "vcpu-bit-flip")
    assert apply_fault(path, fault, tmp_path / "damaged") is None


def test_most_faults_need_no_golden_image(tmp_path: Path) -> None:
    """The checks without a golden image miss only damage to pages without redundancy."""
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest()).stream())
    rows = run_selftest(path)
    unseen = {row.fault for row in rows if row.outcome == "needs golden image"}
    assert unseen <= {fault.name for fault in CATALOGUE if fault.needs_golden}
    assert not [row for row in rows if row.outcome == "missed"]


def test_selftest_wants_an_undamaged_file(tmp_path: Path) -> None:
    """A self-test refuses a file that fails already, since it would show nothing."""
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest()).stream() + b"more")
    with pytest.raises(UsageError):
        run_selftest(path)


@pytest.mark.parametrize("mapped", [False, True])
def test_violation_of_the_structure_has_a_code_of_its_check(tmp_path: Path, mapped: bool) -> None:
    """The part of the code before the dot is the check's name."""
    path, damaged = tmp_path / "file", tmp_path / "damaged"
    path.write_bytes(Writer(Guest(), mapped=mapped).stream())
    seen: dict[str, set[Code]] = {}
    for fault in CATALOGUE:
        if apply_fault(path, fault, damaged) is None:
            continue
        try:
            verdict = check_file(damaged)
        except UsageError:
            continue
        found = [one for one in verdict.violations if one.check not in ("write-order", "readable")]
        assert all(violation.code.subject == violation.check for violation in found), fault.name
        seen[fault.name] = {violation.code for violation in found}
    assert len(set().union(*seen.values())) >= 20
    if mapped:
        assert Code.MAPPED_RAM_EMPTY_BITMAP in seen["bitmap-empty"]


def test_a_seed_repeats_a_fault(tmp_path: Path) -> None:
    """The same seed damages the same bytes."""
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest()).stream())
    fault = next(fault for fault in CATALOGUE if fault.name == "bit-flip")
    places = [apply_fault(path, fault, tmp_path / f"copy{number}", 5) for number in range(2)]
    assert places[0] == places[1]
    assert (tmp_path / "copy0").read_bytes() == (tmp_path / "copy1").read_bytes() != path.read_bytes()


@pytest.mark.parametrize("mapped", [False, True])
def test_extraction_is_a_golden_image(tmp_path: Path, mapped: bool) -> None:
    """The extracted image equals the RAM written, and serves as a golden image for the file."""
    writer = Writer(Guest(), mapped=mapped)
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    content = extract(path, tmp_path / "out")
    assert (tmp_path / "out" / "block-000.ram").read_bytes() == writer.guest.ram.tobytes()
    assert [entry["idstr"] for entry in content["blocks"]] == ["pc.ram", "pc.rom"]
    assert check_file(path, golden=tmp_path / "out").check("golden").total == 0  # type: ignore[union-attr]
    assert json.loads((tmp_path / "out" / "devices.json").read_text())["dev1 (0)"]["reg"] == [4, 5]


def test_extraction_uses_no_name_of_the_file(tmp_path: Path) -> None:
    """RAMBlock names with slashes and dots lead to no path."""
    path = tmp_path / "file"
    path.write_bytes(Writer(Guest()).stream().replace(b"pc.rom", b"../../"))
    extract(path, tmp_path / "out")
    names = {entry.name for entry in (tmp_path / "out").iterdir()}
    assert names == {"block-000.ram", "block-001.ram", "devices.json", "golden.json"}


def test_diff_names_pages_and_fields(tmp_path: Path) -> None:
    """Two files differ in exactly the pages and device fields that were changed."""
    first, second = tmp_path / "a", tmp_path / "b"
    guest = Guest()
    data = Writer(guest).stream()
    first.write_bytes(data)
    guest.ram[5] = 0
    guest.ram[150:152, 7] += np.uint64(1)
    second.write_bytes(
        Writer(guest, mapped=True).stream().replace(b"\0\0\0\x04\0\0\0\x05", b"\0\0\0\x04\0\0\0\x09")
    )
    found = diff_files(first, second)
    assert found.pages == {"pc.ram": [5 * PAGE, 150 * PAGE, 151 * PAGE]}
    assert [(change.path, change.before, change.after) for change in found.fields] == [
        ("dev1 (0).reg[1]", 5, 9)
    ]
    assert [entry.pages for entry in found.ranges] == [1, 2]
    assert diff_files(first, first).same


def test_maps_show_every_bad_page() -> None:
    """A single bad page is visible in both maps, and names are escaped in the drawing."""
    lengths, bad = {"pc.ram": 1 << 30, "<rom>": 8192}, {"pc.ram": [0x3000_0000], "<rom>": [4096]}
    text = terminal_map(lengths, bad)
    assert text.count("░") == 1
    assert "1 bad" in text
    root = ElementTree.fromstring(svg_map(lengths, bad))
    assert len([item for item in root.iter() if item.get("fill", "").startswith("rgb")]) == 2


def test_ranges_join_neighbours() -> None:
    """Neighbouring bad pages become one range."""
    ranges = group_ranges({"a": [0, 4096, 8192, 40960]})
    assert [(entry.start, entry.end, entry.pages) for entry in ranges] == [(0, 12288, 3), (40960, 45056, 1)]


def test_ranges_hold_any_64_bit_offset() -> None:
    """A damaged record may name the last page there can be; found by fuzzing."""
    last = 2**64 - 4096
    ranges = group_ranges({"a": [last, 0]})
    assert [(entry.start, entry.end) for entry in ranges] == [(0, 4096), (last, 2**64)]
