"""Contract: the baseline explains what it lists, on the versions and machines where it was seen."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from harness.codes import Code
from tests_functional.devices.baseline import BASELINE, load_baseline
from validators.checks import Problem

_TEXT = """
[[explained]]
name = "clock"
reason = "It goes on."
fields = ["rtc (0).*"]
seen = ["7.2.", "10.0."]

[[explained]]
name = "page"
reason = "It tells the guest of the restore."
codes = ["devices.ram-differs"]
fields = ["page"]
devices = ["vmclock"]
seen = ["10.0."]
machines = ["pc"]
sometimes = true

[[explained]]
name = "dies"
reason = "It cannot be loaded."
codes = ["devices.not-restored"]
devices = ["sd-*"]
seen = ["10.0."]
accelerators = ["tcg"]

[[expected]]
qemu = "10.0."
machine = "pc"
created = 7
"""


def _problem(code: Code = Code.DEVICES_DIFFERS, **fields: str) -> Problem:
    return Problem(code, "It differs.", {"device": "e1000", **fields})


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.toml"
    path.write_text(_TEXT, encoding="utf-8")
    return path


def test_field_is_explained_by_pattern(file: Path) -> None:
    """A field of another device with the same name is not."""
    found = load_baseline("10.0.13", "pc", "tcg", file)
    known, other = _problem(field="rtc (0).time"), _problem(field="hpet (0).time")
    assert found.reason(known) is found.explained[0]
    assert found.unexplained([known, other]) == [other]


def test_other_code_is_not_explained(file: Path) -> None:
    """Memory that differs is no field, also where it is called as one."""
    found = load_baseline("10.0.13", "pc", "tcg", file)
    assert found.reason(_problem(Code.DEVICES_RAM_DIFFERS, block="rtc (0).ram")) is None


def test_devices_that_are_in_one_guest(file: Path) -> None:
    """A problem is theirs together, and explained if one of them has the reason."""
    found = load_baseline("10.0.13", "pc", "tcg", file)
    for together, known in [("e1000+sd-card", True), ("sd-card+e1000", True), ("e1000+pvpanic", False)]:
        problem = Problem(Code.DEVICES_NOT_RESTORED, "It fails.", {"device": together})
        assert (found.reason(problem) is not None) is known


def test_reason_of_one_device_is_for_no_other(file: Path) -> None:
    """Nor is one for a problem without field or block."""
    found = load_baseline("10.0.13", "pc", "tcg", file)
    for device, code, about in [
        ("vmclock", Code.DEVICES_RAM_DIFFERS, {"block": "page"}),
        ("sd-card", Code.DEVICES_NOT_RESTORED, {}),
    ]:
        assert found.reason(Problem(code, "", {**about, "device": device}))
        assert found.reason(Problem(code, "", {**about, "device": "e1000"})) is None


@pytest.mark.parametrize(
    ("version", "machine", "accelerator", "names", "created"),
    [
        ("10.0.13", "pc", "tcg", ["clock", "page", "dies"], 7),
        ("10.0.13", "pc", "kvm", ["clock", "page"], 7),
        ("10.0.13", "q", "tcg", ["clock", "dies"], None),
        ("7.2.22", "pc", "tcg", ["clock"], None),
        ("12.0.0", "pc", "tcg", [], None),
        ("", "pc", "tcg", [], None),
    ],
)
def test_only_what_was_seen_applies(
    file: Path, version: str, machine: str, accelerator: str, names: list[str], created: int | None
) -> None:
    """Another version or machine explains nothing, so that what is new is red."""
    found = load_baseline(version, machine, accelerator, file)
    assert [one.name for one in found.explained] == names
    assert found.created == created
    assert [one.name for one in found.explained if one.sometimes] == [
        name for name in names if name == "page"
    ]


def test_unknown_code_is_an_error(file: Path) -> None:
    """A typing error must not make an entry that never applies."""
    file.write_text(_TEXT.replace("devices.ram-differs", "devices.ram"), encoding="utf-8")
    with pytest.raises(ValueError, match="devices"):
        load_baseline("10.0.13", "pc", "tcg", file)


def test_own_baseline_can_be_read() -> None:
    """Each reason has a name of its own and a sentence."""
    found = load_baseline("10.0.13", "pc", "tcg").explained
    assert found
    assert len({one.name for one in found}) == len(found)
    assert all(one.reason.endswith(".") for one in found)


def test_page_has_the_baseline() -> None:
    """docs/devices.md says each reason with the same words."""
    page = (Path(__file__).parents[3] / "docs/devices.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|`:]+): ([^|]+) \| `", page, re.MULTILINE)
    entries = tomllib.loads(BASELINE.read_text(encoding="utf-8"))["explained"]
    assert rows == [(entry["name"], entry["reason"]) for entry in entries]
