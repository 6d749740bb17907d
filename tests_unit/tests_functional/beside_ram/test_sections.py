"""Contract: an iterable section that no test covers turns the check red, and each listed test exists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.codes import Code
from harness.errors import Evidence, SetupBroken, SnapproofError, SubjectFailed
from harness.qemu.configuration import MachineConfig
from harness.status import Status
from snapproof.runs.profiles import PROFILES
from tests_functional.beside_ram import sections
from tests_functional.beside_ram.handlers import handler_of, handlers
from tests_functional.beside_ram.sections import (
    IterableState,
    as_wanted,
    crashed,
    iterable_sections,
    judge_sections,
    representatives,
    states_of,
)
from tests_unit.support.scenario_values import codes, make_run, sentences
from validators.vmstate.stream.format import END, PART, START
from validators.vmstate.stream.index import Section

_CONFIG = MachineConfig(
    Path("qemu"), accel="tcg", kernel=None, initrd=None, cmdline="", ram_mib=256, extra=("-S",)
)


def _section(kind: int, name: str, length: int) -> Section:
    return Section(kind, 3, name, 0, 1, 100, 120, 120 + length)


@pytest.mark.parametrize(
    ("name", "length", "red"),
    [
        ("spapr/htab", 5_000, False),
        ("dirty-bitmap", 100, False),
        ("s390-storage_attributes", 16, False),
        ("s390-storage_attributes", 17, True),
        ("0000:00:05.0/vfio", 1, True),
        ("new/handler", 1, True),
    ],
)
def test_sections_without_a_test(name: str, length: int, red: bool) -> None:
    """A handler that is not listed is red; one that is listed without a test is red once it has state."""
    result = judge_sections([IterableState(name, length)], handlers())
    assert codes(result) == ([Code.BESIDE_RAM_UNTESTED] if red else [])
    assert result.facts == {name: length}
    if red:
        assert f"'{name}'" in sentences(result)[0]
        assert result.violations[0].fields == {"section": name}


def test_no_section_is_right() -> None:
    """Most machine types have none."""
    assert codes(judge_sections([], handlers())) == []


def test_largest_part_counts() -> None:
    """State is in one of its parts."""
    sections = [
        _section(START, "a", 4),
        _section(START, "b", 1),
        _section(PART, "a", 90),
        _section(END, "a", 8),
    ]
    assert states_of(sections) == [IterableState("a", 90), IterableState("b", 1)]


def test_list_of_handlers() -> None:
    """Each has a test of nightly, or a reason and no test."""
    rows = {row.name for row in PROFILES["nightly"]}
    for handler in handlers().values():
        assert bool(handler.test) != bool(handler.why_untested), handler.section
        assert not handler.test or handler.test in rows, handler.section
        assert not (handler.test and handler.empty_bytes), handler.section
    assert handler_of("0000:00:05.0/vfio", handlers()) == handlers()["vfio"]
    assert handler_of("ram", handlers()) is None


def test_machine_types() -> None:
    """Of types with versions the oldest and the newest are saved, by number and not by text."""
    names = ("none", "pc-9.2", "pc-10.0", "q35-8.2", "pc-2.9", "microvm", "pc", "microvm")
    assert representatives(names) == ("pc-2.9", "pc-10.0", "q35-8.2", "microvm", "pc")


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("qemu: Invalid RAM size, should be 512 MiB", replace(_CONFIG, ram_mib=512)),
        ("qemu: Invalid RAM size, should be 1 GiB", replace(_CONFIG, ram_mib=1024)),
        ("This machine can only be used with 512MiB or 1GiB RAM.", replace(_CONFIG, ram_mib=512)),
        ("The min CPUs supported by machine 'x' is 4.", replace(_CONFIG, vcpus=4)),
        ("qemu: no default audio driver available", replace(_CONFIG, extra=("-S", "-audio", "driver=none"))),
        ("Kernel or Flash image must be specified", _CONFIG),
        ("", _CONFIG),
    ],
)
def test_what_a_machine_type_asks_for(words: str, changed: MachineConfig) -> None:
    """A board's RAM, processors and sound driver are those that it asks for."""
    assert as_wanted(_CONFIG, words) == changed


@pytest.mark.parametrize(
    ("error", "is_crash"),
    [
        (SubjectFailed("It aborts.", Evidence(exit_code=-6)), True),
        (SubjectFailed("It wants more RAM.", Evidence(exit_code=1)), False),
        (SubjectFailed("It ends.", Evidence(exit_code=0)), False),
        (SubjectFailed("It hangs."), False),
        (SetupBroken("Too little memory.", Evidence(exit_code=-9)), False),
    ],
)
def test_end_by_a_signal_is_a_crash(error: SnapproofError, is_crash: bool) -> None:
    """A message and an exit code of its own are none, and neither is the kernel's killer."""
    assert crashed(error) == is_crash


def test_machine_type_that_crashes_qemu_is_red(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also one on which no guest runs; one that only wants more is left out."""

    def saved(_run: object, name: str) -> list[IterableState]:
        if name == "odd":
            raise SubjectFailed("It wants more RAM.", Evidence(exit_code=1))
        raise SubjectFailed("It aborts.", Evidence(exit_code=-6), code=Code.QEMU_ENDED)

    monkeypatch.setattr(sections, "machine_types", lambda _path: ("odd", "mad"))
    monkeypatch.setattr(sections, "_saved", saved)
    found = iterable_sections(make_run(tmp_path))
    assert found.status is Status.FAIL
    assert [(one.name, one.status) for one in found.checks] == [
        ("odd/iterable-sections", Status.SKIP),
        ("mad/saved", Status.FAIL),
    ]
    assert codes(found.checks[1]) == [Code.QEMU_ENDED]


@pytest.mark.parametrize("known", ["all", "without"])
def test_section_of_a_handler_that_is_taken_for_new(known: str) -> None:
    """It has no test then, so that a fault planted so is seen."""
    fewer = {name: handler for name, handler in handlers().items() if name != "spapr/htab"}
    result = judge_sections([IterableState("spapr/htab", 9)], handlers() if known == "all" else fewer)
    assert codes(result) == ([] if known == "all" else [Code.BESIDE_RAM_UNTESTED])
