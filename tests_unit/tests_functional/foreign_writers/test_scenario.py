"""Contract: a test of a foreign writer proves something, or says that it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.codes import Code
from harness.errors import DeadlineExpired, NotApplicable, SetupBroken, SnapproofError
from harness.qemu.architectures import MICROVM, PC, RISCV_VIRT, VIRT
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine
from tests_functional.foreign_writers import kinds, scenario
from tests_functional.foreign_writers.disk_reads import make_disk
from tests_functional.foreign_writers.kinds import WRITER_KINDS, Place
from tests_functional.foreign_writers.marks import Marks
from tests_functional.foreign_writers.target import Target
from tests_unit.support.scenario_values import codes, make_run

_PLACE = cast(Any, SimpleNamespace(kind=PC, socket=Path("socket")))


def _cycle(folder: Path) -> scenario._Cycle:
    kind = WRITER_KINDS["virtio-blk"]
    return scenario._Cycle(make_run(folder), kind, Marks(), scenario._Passes(2), _PLACE)


@pytest.mark.parametrize(("written", "right"), [([3, 3], True), ([3, 2], False), ([3, None], False)])
def test_all_must_be_written_during_the_save(tmp_path: Path, written: list[int | None], right: bool) -> None:
    """A pass that was not written to its end proves nothing."""
    target = cast(Target, SimpleNamespace(passes=lambda _marks, pages: written[:pages]))
    if right:
        _cycle(tmp_path)._require_written(target, 2, 3, "after T0")
        return
    with pytest.raises(SetupBroken, match="wrote 1 of 2 pages after T0, so this run proves nothing"):
        _cycle(tmp_path)._require_written(target, 2, 3, "after T0")


@pytest.mark.parametrize(("behind", "right"), [(0, True), (2 * MIB, True), (2 * MIB + 1, False)])
def test_ram_behind_the_main_one_does_not_count(
    monkeypatch: pytest.MonkeyPatch, behind: int, right: bool
) -> None:
    """10 MiB are left; 8 MiB of them must be of the main RAM."""
    monkeypatch.setattr(scenario, "find_ram", lambda _machine: ())
    monkeypatch.setattr(scenario, "bytes_behind_main", lambda _found: behind)
    machine = cast(Machine, SimpleNamespace(query_migrate=lambda: {"ram": {"remaining": 10 * MIB}}))
    if right:
        scenario._require_early(machine)
        return
    with pytest.raises(SetupBroken, match="Only 7 MiB of the main RAM were left"):
        scenario._require_early(machine)


def test_disk_has_all_passes(tmp_path: Path) -> None:
    """One behind the other: the first, and two for each snapshot."""
    marks = Marks()
    make_disk(tmp_path / "disk", marks, 7)
    content = (tmp_path / "disk").read_bytes()
    pages = [content[at : at + 4096] for at in range(0, len(content), 4096)]
    assert marks.passes(pages[: 7 * 768]) == [number for number in range(7) for _ in range(768)]
    # An SD card has a power of two of bytes.
    assert len(content) == 32 * MIB
    assert not any(content[7 * 768 * 4096 :])


@pytest.mark.parametrize("name", WRITER_KINDS)
def test_source_and_restored_guest_have_sockets_of_their_own(tmp_path: Path, name: str) -> None:
    """They run side by side; the disk is one, since nobody writes to it."""
    kind = WRITER_KINDS[name]
    source, restored = (
        kind.arguments(Place(tmp_path / "disk,1", tmp_path / socket, Marks())) for socket in "ab"
    )
    assert kind.reason
    assert len(source) == len(restored)
    if any(str(tmp_path / "a") in argument for argument in source):
        assert source != restored
    assert not any("disk,1" in argument for argument in source)


@pytest.mark.parametrize(
    ("name", "function", "words"),
    [
        ("vhost-user-fs", "has_device", "device 'vhost-user-fs-pci'"),
        ("virtio-net", "has_netdev", "network of the kind 'dgram'"),
        ("virtio-blk-io-uring", "has_block_driver", "aio=io_uring'"),
    ],
)
def test_qemu_that_was_built_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, function: str, words: str
) -> None:
    """What a build of QEMU lacks is a reason to skip the test, and not QEMU's fault."""
    for probe in ("has_device", "has_netdev", "has_block_driver"):
        monkeypatch.setattr(kinds, probe, lambda *_, has=probe != function: has)
    assert words in WRITER_KINDS[name].lacking(tmp_path / "qemu")
    bare = make_run(tmp_path)
    bare = replace(bare, stack=replace(bare.stack, image=replace(bare.stack.image, bare=True)))
    with pytest.raises(NotApplicable, match="This QEMU has no "):
        scenario.foreign_writer(name)(bare)


@pytest.mark.parametrize(
    ("name", "machine", "words"),
    [
        ("nvme", "microvm", "Machine type 'microvm' has no PCI that this writer needs"),
        ("ide", "microvm", "Machine type 'microvm' has no IDE that this writer needs"),
        ("virtio-blk", "none", "which it cannot on machine type 'none'"),
    ],
)
def test_machine_without_what_a_writer_needs(tmp_path: Path, name: str, machine: str, words: str) -> None:
    """It is skipped before a QEMU is started that could not be."""
    run = make_run(tmp_path)
    stack = replace(run.stack, machine=machine, image=replace(run.stack.image, bare=True))
    with pytest.raises(NotApplicable, match=words):
        scenario.foreign_writer(name)(replace(run, stack=stack))


def test_guest_with_an_operating_system_is_skipped(tmp_path: Path) -> None:
    """It uses the pages that a foreign writer marks."""
    with pytest.raises(NotApplicable, match="of a bare guest"):
        scenario.foreign_writer("virtio-blk")(make_run(tmp_path))


def test_pages_at_the_end_of_ram() -> None:
    """RAM does not begin at 0 on each machine type."""
    config = SimpleNamespace(machine="virt", ram_mib=128)
    machine = cast(Any, SimpleNamespace(config=config, pid=1))
    assert Target(machine, kind=VIRT).control == (1024 + 124) << 20
    assert Target(machine, kind=RISCV_VIRT).control == (2048 + 124) << 20
    assert Target(machine, kind=MICROVM).data == (124 << 20) + 16 * 4096


@pytest.mark.parametrize("error", [DeadlineExpired("Nothing came."), SetupBroken("The disk fails.")])
def test_restored_writer_that_does_not_answer_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: SnapproofError
) -> None:
    """It is no failed restore: the guest was restored, and its device does not go on."""

    def write(_number: int, _deadline: object) -> None:
        raise error

    writer = SimpleNamespace(pages=2, write=write)
    kind = replace(WRITER_KINDS["virtio-blk"], writer=lambda *_: cast(Any, writer))
    target = SimpleNamespace(passes=lambda _marks, pages: [3] * pages)
    monkeypatch.setattr(kinds, "Target", lambda *_: target)
    cycle = replace(_cycle(tmp_path), kind=kind)
    (found,) = cycle._look(cast(Any, SimpleNamespace(machine=None)))
    assert codes(found) == [Code.FOREIGN_WRITER_SILENT]
