"""Contract: each versioned machine type of a QEMU has its own checks, and what breaks on one names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.codes import Code
from harness.errors import NotApplicable, SnapproofError, SubjectFailed
from harness.guest.shell import GuestUnreachable
from harness.qemu.architectures import ARCHITECTURES, RISCV64, S390X, X86_64
from harness.status import Status
from tests_functional.lib.build_outcome import Cycle
from tests_functional.lib.run import Run
from tests_functional.machines import every_version as scenario
from tests_functional.machines.every_version import every_version, types_like, versioned_types
from tests_unit.support.scenario_values import check, make_run, offline, snapshot

_KNOWN = (
    *("microvm", "none", "isapc", "x-remote", "pc", "q35"),
    *("pc-i440fx-2.4", "pc-q35-10.0", "pc-q35-4.0.1", "pc-i440fx-10.0", "pc-q35-4.0", "pc-i440fx-2.12"),
)
_NEWEST_FIRST = (
    *("pc-q35-10.0", "pc-i440fx-10.0", "pc-q35-4.0.1", "pc-q35-4.0", "pc-i440fx-2.12", "pc-i440fx-2.4"),
)


def test_versioned_types_of_a_qemu() -> None:
    """All of them by version, of each chip set; no alias, and none of another architecture."""
    assert versioned_types(_KNOWN, X86_64) == _NEWEST_FIRST
    names = ("virt", "virt-9.0", "virt-10.0", "s390-ccw-virtio-2.9")
    assert versioned_types(names, S390X) == ("s390-ccw-virtio-2.9",)
    assert [len(versioned_types(names, one)) for one in ARCHITECTURES if one.name == "aarch64"] == [2]
    assert versioned_types(names, RISCV64) == ()


def _outcome_of(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    known: tuple[str, ...] = _KNOWN,
    boots: dict[str, SnapproofError] | None = None,
    wrong: str = "",
    machine: str = "pc",
) -> Any:
    """The outcome on a QEMU with these types, on some of which no guest boots, or a snapshot is wrong."""

    @contextmanager
    def guest(run: Run) -> Iterator[Any]:
        if error := (boots or {}).get(run.stack.machine):
            raise error
        yield SimpleNamespace(guest=SimpleNamespace(machine=SimpleNamespace(quit=lambda: None)))

    def cycle(run: Run, _source: Any, flow: Any, label: str) -> Cycle:
        name, _, properties = run.stack.machine.partition(",")
        assert run.folder == folder / name
        assert properties == machine.partition(",")[2]
        found = check("golden", *["It differs."] * (run.stack.machine == wrong))
        return Cycle(label, snapshot(flow), offline(found))

    monkeypatch.setattr(scenario, "writing_guest", guest)
    monkeypatch.setattr(scenario, "snapshot_cycle", cycle)
    monkeypatch.setattr(scenario, "machine_types", lambda _path: known)
    run = make_run(folder)
    return every_version(replace(run, stack=replace(run.stack, machine=machine)))


def test_each_type_is_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sentence and the names of the checks have all of them."""
    found = _outcome_of(monkeypatch, tmp_path)
    assert found.status is Status.PASS
    assert [one.name for one in found.checks if one.name.endswith("golden")] == [
        f"{name}/golden" for name in _NEWEST_FIRST
    ]
    assert found.figures == {"machine_types": 6}
    assert all(name in found.sentence for name in _NEWEST_FIRST)


def test_a_wrong_snapshot_names_its_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And the types behind it are judged as well."""
    found = _outcome_of(monkeypatch, tmp_path, wrong="pc-q35-4.0")
    assert (found.status, found.sentence) == (Status.FAIL, "pc-q35-4.0/golden: It differs.")
    assert [one.name for one in found.checks if one.violations] == ["pc-q35-4.0/golden"]
    assert found.checks[-1].name == "pc-i440fx-2.4/golden"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SubjectFailed("QEMU ended.", code=Code.QEMU_ENDED), Code.QEMU_ENDED),
        (GuestUnreachable("It did not boot."), Code.GUEST_NO_ANSWER),
    ],
)
def test_a_type_that_boots_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: SnapproofError, code: Code
) -> None:
    """It is a failure of that type: the same guest has booted on another one of the same QEMU."""
    found = _outcome_of(monkeypatch, tmp_path, boots={"pc-i440fx-2.12": error})
    (failed,) = (one for one in found.checks if one.violations)
    assert (failed.name, failed.violations[0].code) == ("pc-i440fx-2.12/saved", code)
    assert found.status is Status.FAIL
    assert "pc-i440fx-2.4/golden" in [one.name for one in found.checks]


def test_a_type_on_which_no_guest_can_be_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is said with its reason, and not counted."""
    monkeypatch.setattr(
        scenario, "why_not_on", lambda stack: "It is odd." if stack.machine == "pc-q35-4.0" else ""
    )
    found = _outcome_of(monkeypatch, tmp_path)
    assert found.status is Status.PASS
    assert [(one.name, one.reason) for one in found.checks if one.status is Status.SKIP] == [
        ("pc-q35-4.0/saved", "It is odd.")
    ]
    assert found.figures == {"machine_types": 5}
    assert found.sentence.endswith("pc-i440fx-2.12, pc-i440fx-2.4. It is odd.")


def test_a_guest_that_boots_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """That blames nobody, and one that QEMU crashes under blames QEMU."""
    with pytest.raises(GuestUnreachable):
        _outcome_of(monkeypatch, tmp_path, boots={_NEWEST_FIRST[0]: GuestUnreachable("It did not boot.")})


def test_a_qemu_without_versioned_types(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as one that does not list its types."""
    with pytest.raises(NotApplicable, match="lists no versioned machine type for x86_64"):
        _outcome_of(monkeypatch, tmp_path, known=("microvm", "none"))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("pc", _NEWEST_FIRST),
        ("q35", ("pc-q35-10.0", "pc-q35-4.0.1", "pc-q35-4.0")),
        ("pc-i440fx-2.12", ("pc-i440fx-2.12",)),
        ("microvm", ()),
        ("isapc", ()),
    ],
)
def test_types_that_a_run_asks_for(wanted: str, expected: tuple[str, ...]) -> None:
    """The usual type stands for all, another one for its versions, and a version for itself."""
    assert types_like(wanted, _NEWEST_FIRST, X86_64) == expected


def test_machine_of_the_run_and_its_properties_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The properties go with each version; the names of the checks are without them."""
    found = _outcome_of(monkeypatch, tmp_path, machine="q35,usb=off")
    assert found.figures == {"machine_types": 3}
    assert {one.name.partition("/")[0] for one in found.checks} == {
        "pc-q35-10.0",
        "pc-q35-4.0.1",
        "pc-q35-4.0",
    }
    with pytest.raises(NotApplicable, match="is one of 'microvm'"):
        _outcome_of(monkeypatch, tmp_path, machine="microvm")
