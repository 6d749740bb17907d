"""Contract: libvirt's own reasons against a copy blame nobody; a file that QEMU does not load is a FAIL."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.attach.virsh import Domain
from harness.codes import Code
from harness.errors import SetupBroken
from harness.qemu.qmp import CommandRefused
from harness.status import Status
from tests_functional.attach import through_libvirt
from tests_functional.attach.libvirt_through import judge_named, judge_none_left, require_compared
from tests_functional.attach.through_libvirt import (
    COPY_PREFIX,
    RAM,
    RESTORE,
    judge_refusal,
    restore_through_libvirt,
)
from validators.checks import judged, skipped
from validators.faults.files import DamagePlace
from validators.verdict import CheckResult, Tally
from validators.vmstate.containers.libvirt import save_image_header

_XML = "<domain type='qemu'><name>vm</name><uuid>u</uuid><devices>{}</devices></domain>"


class _Domain(Domain):
    """A domain whose XML is its name."""

    def ask(self, *words: str) -> str:
        assert words == ("dumpxml", self.name, "--migratable")
        return self.name


class _Machine:
    """An attached domain, whose libvirt restores images or refuses to."""

    def __init__(self, xml: str, refusal: str = "", lives: bool = True) -> None:
        self.way: Any = _Domain(xml)
        self.copy, self.refusal, self.lives = "", refusal, lives
        self.image, self.ended = b"", list[str]()

    def restore_copy(self, name: str, image: Path, _seconds: float) -> None:
        self.copy, self.image = name, image.read_bytes()
        assert image.stat().st_mode & 0o777 == 0o600
        if self.refusal:
            raise CommandRefused("x", self.refusal)

    def end_copy(self) -> bool:
        self.ended.append(self.copy)
        self.copy = ""
        return self.lives


class _Copy:
    """An attached copy in a run state; it is entered and left."""

    def __init__(self, state: str) -> None:
        self.qmp = SimpleNamespace(execute=lambda _command: {"status": state})

    def __enter__(self) -> _Copy:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


def _restore(
    monkeypatch: pytest.MonkeyPatch, folder: Path, machine: _Machine, state: str = "paused"
) -> tuple[list[CheckResult], tuple[str, ...]]:
    """Restore a stream of some bytes; RAM of the copy is compared with nothing."""
    (folder / "vmstate").write_bytes(b"stream")
    snapshot: Any = SimpleNamespace(path=folder / "vmstate", golden=None)

    def attached(way: Domain, *_rest: object) -> _Copy:
        assert way.name == machine.copy
        return _Copy(state)

    monkeypatch.setattr(through_libvirt, "AttachedMachine", attached)
    return restore_through_libvirt(machine, snapshot, folder, 10)  # type: ignore[arg-type]


def test_copy_is_restored_judged_and_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The image is libvirt's header and the stream, is deleted, and the changes are told."""
    machine = _Machine(_XML.format("<graphics type='vnc'/>"))
    checks, changes = _restore(monkeypatch, tmp_path, machine)
    assert [(check.name, check.status) for check in checks] == [
        (RESTORE, Status.PASS),
        ("libvirt/restored-state", Status.PASS),
        (RAM, Status.SKIP),
    ]
    (name,) = machine.ended
    assert name.startswith(COPY_PREFIX)
    xml = (tmp_path / "through-libvirt" / "domain.xml").read_text()
    assert f"<name>{name}</name>" in xml
    assert machine.image == save_image_header(xml, running=False) + b"stream"
    assert not (tmp_path / "through-libvirt" / "vmstate").exists()
    assert len(changes) == 2
    assert changes[1] == "Through libvirt: It has no display of type 'vnc'."


def test_copy_that_runs_or_ends_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It was to be paused until we end it."""
    checks, _changes = _restore(monkeypatch, tmp_path, _Machine(_XML, lives=False), "running")
    codes = [[violation.code for violation in check.violations] for check in checks]
    assert codes == [[Code.RESTORE_FAILED], [Code.RESTORED_RUN_STATE], []]


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        (_Machine("nothing"), "cannot be used: it cannot be parsed"),
        (_Machine(_XML.format("<tpm/>")), "beside it: It has a device 'tpm'"),
        (
            _Machine(_XML, "unsupported configuration: x."),
            "not restore the file: unsupported configuration: x.",
        ),
    ],
)
def test_no_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: _Machine, told: str) -> None:
    """One sentence says why, and what may have begun is ended."""
    (check,), _changes = _restore(monkeypatch, tmp_path, machine)
    assert (check.name, check.status) == (RESTORE, Status.SKIP)
    assert told in check.reason
    assert len(machine.ended) == bool(machine.refusal)
    assert not (tmp_path / "through-libvirt" / "vmstate").exists()


def test_no_domain_and_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A socket has no libvirt; an image that finds no room is not begun."""
    machine = _Machine(_XML)
    monkeypatch.setattr(through_libvirt, "free_mib", lambda _folder: 0)
    (check,), _changes = _restore(monkeypatch, tmp_path, machine)
    assert check.status is Status.SKIP
    assert "has 0 MiB free, and a save image needs 1." in check.reason
    machine.way = Path("socket")
    (check,), _changes = _restore(monkeypatch, tmp_path, machine)
    assert check.reason == "The VM is no domain of libvirt."


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("Failed to restore domain; internal error: QEMU unexpectedly closed the monitor: load of migration "
         "failed: Invalid argument", Status.FAIL),
        ("error while loading state for instance 0x0 of device 'ram'", Status.FAIL),
        ("Unknown savevm section or instance 'x' 0", Status.FAIL),
        ("operation failed: domain 'x' is already defined", Status.SKIP),
        ("it has not ended for 10 s", Status.SKIP),
    ],
)  # fmt: skip
def test_refusal(words: str, status: Status) -> None:
    """A QEMU that does not load the file is evidence; libvirt's own reasons are none."""
    check = judge_refusal(words)
    assert (check.name, check.status) == (RESTORE, status)
    said = check.reason or check.violations[0].sentence
    assert said.endswith(f"the file: {words}.")


def test_what_the_row_requires() -> None:
    """A restore or a comparison that was left out shows nothing."""
    right = [judged(RESTORE, "", []), judged(RAM, "", [])]
    require_compared(right)
    for wrong in (right[:1], [right[0], skipped(RAM, "", "why")], [skipped(RESTORE, "", "why"), right[1]]):
        with pytest.raises(SetupBroken, match=r"shows nothing: (why|there is no such check)"):
            require_compared(wrong)


@pytest.mark.parametrize(
    ("offsets", "status"), [((4096,), Status.PASS), ((), Status.FAIL), ((4096, 8192), Status.FAIL)]
)
def test_planted_page_is_named(offsets: tuple[int, ...], status: Status) -> None:
    """That page and no other one."""
    tally = Tally(RAM, "")
    for offset in offsets:
        tally.report(Code.GOLDEN_DIFFERS, "x", "pc.ram", offset)
    check = judge_named([tally.result()], DamagePlace("x", 0, 0, "pc.ram", (4096,)))
    assert check.status is status


def test_copy_that_is_left() -> None:
    """It is named."""
    assert judge_none_left([], "x").status is Status.PASS
    (violation,) = judge_none_left(["snapproof-copy-1"], "x").violations
    assert "snapproof-copy-1" in violation.sentence
