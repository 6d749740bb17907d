"""Contract: the disks of T0 are served while they are pinned, and nothing of that is left afterwards."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.attach.ledger import PIN, PIN_LISTENER
from harness.attach.machine import AttachedMachine
from harness.attach.pins import NO_PINS, pin_disks, plan_pins, writable_disks
from harness.errors import SetupBroken
from harness.qemu.disk import probe_disk
from harness.qemu.qmp import CommandRefused
from tests_unit.support.fake_monitor import FakeVm


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def vm(place: Path) -> Iterator[FakeVm]:
    """A VM with a disk."""
    found = FakeVm(place / "qmp")
    yield found
    found.close()


def _attached(place: Path) -> AttachedMachine:
    return AttachedMachine(place / "qmp", place, 60.0)


def _pinned(vm: FakeVm) -> tuple[list[str], list[str], list[str], bool]:
    return [one for one in vm.nodes if one.startswith(PIN)], vm.jobs, vm.exports, vm.serves


_NONE: tuple[list[str], list[str], list[str], bool] = ([], [], [], False)


def test_disk_is_pinned_until_it_is_let_go_of(place: Path, vm: FakeVm) -> None:
    """What a save puts back leaves the pins alone; after `unpin` nothing is left, descriptors included."""
    with _attached(place) as machine:
        machine.qmp.execute("stop")
        pins = pin_disks(machine, plan_pins(machine, place), place / "nbd")
        name = f"{PIN}-0"
        assert _pinned(vm) == ([name], [name], [name], True)
        assert (disk := pins.of_node("disk")) is not None
        assert (disk.file, disk.export) == ("/disk", name)
        assert pins.of_file("/disk") is disk
        assert pins.of_file("/other") is None and pins.of_node("other") is None
        assert probe_disk(place / f"{name}.qcow2").size == 1 << 20
        assert (place / f"{name}.qcow2").stat().st_mode & 0o777 == 0o600
        assert machine.put_back(pins=False) == ["The guest was continued."]
        assert (_pinned(vm)[0], list(vm.sets)) == ([name], [name])
        machine.unpin()
        assert _pinned(vm) == _NONE
        assert vm.sets == {} and PIN_LISTENER not in vm.descriptors
        assert machine.put_back() == []


def test_end_of_the_attachment_lets_go(place: Path, vm: FakeVm) -> None:
    """All that is put back at the end has the pins among it, and says so."""
    with _attached(place) as machine:
        pin_disks(machine, plan_pins(machine, place), place / "nbd")
        assert "The disks are no longer pinned." in machine.put_back()
    assert _pinned(vm) == _NONE


def test_guard_that_was_killed(place: Path, vm: FakeVm) -> None:
    """The next guard knows of no pin, and takes all away that has our names, and nothing else."""
    vm.jobs.append("owner")
    vm.exports.append("owner")
    with _attached(place) as machine:
        pin_disks(machine, plan_pins(machine, place), place / "nbd")
        os.kill(machine.guard_pid, signal.SIGKILL)
        machine.put_back()
    assert (vm.nodes, vm.jobs, vm.exports) == (["disk"], ["owner"], ["owner"])
    assert vm.sets == {} and vm.descriptors == {}
    assert vm.serves, "somebody else's export is served there"


@pytest.mark.parametrize(
    "refused", ["nbd-server-start", "blockdev-add", "blockdev-backup", "block-export-add"]
)
def test_refused_step(place: Path, vm: FakeVm, refused: str) -> None:
    """What was begun before is taken away."""
    vm.refused = {refused}
    with _attached(place) as machine:
        with pytest.raises(CommandRefused):
            pin_disks(machine, plan_pins(machine, place), place / "nbd")
        machine.unpin()
        assert _pinned(vm) == _NONE
        assert vm.sets == {}
        assert vm.state == "running"


def test_node_that_does_not_go(place: Path, vm: FakeVm) -> None:
    """A refusal is told, and tried again when all is put back."""
    with _attached(place) as machine:
        pin_disks(machine, plan_pins(machine, place), place / "nbd")
        vm.refused = {"blockdev-del"}
        with pytest.raises(CommandRefused):
            machine.unpin()
        assert "let go of the disks" in " ".join(machine.put_back())
        vm.refused = set()
        machine.put_back()
        assert _pinned(vm) == _NONE


def test_vm_without_a_disk(place: Path, vm: FakeVm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done to it."""
    monkeypatch.setattr("harness.attach.pins.writable_disks", lambda _blocks: [])
    with _attached(place) as machine:
        plan = plan_pins(machine, place)
        assert pin_disks(machine, plan, place / "nbd") is NO_PINS
    assert "nbd-server-start" not in vm.commands
    with pytest.raises(SetupBroken, match="does not serve"):
        NO_PINS.connected()


def test_disks_that_a_guest_can_write_to() -> None:
    """Not those without a medium, or that are only read."""
    blocks: list[dict[str, Any]] = [
        {"device": "cd"},
        {"inserted": {"node-name": "one", "ro": True}},
        {"inserted": {"node-name": "two", "ro": False}},
    ]
    assert [one["node-name"] for one in writable_disks(blocks)] == ["two"]


def test_failing_copy_harms_the_pin_and_not_the_guest(place: Path, vm: FakeVm) -> None:
    """Where QEMU has the argument that says so, it gets it."""
    members = [{"name": "on-cbw-error", "type": "2"}]
    vm.schema = [
        {"name": "blockdev-backup", "meta-type": "command", "arg-type": "1"},
        {"name": "1", "meta-type": "object", "members": members},
        {"name": "2", "meta-type": "enum", "values": ["break-snapshot"]},
    ]
    with _attached(place) as machine:
        assert plan_pins(machine, place).more == {"on-cbw-error": "break-snapshot"}
        vm.schema = []
        assert plan_pins(machine, place).more == {}
