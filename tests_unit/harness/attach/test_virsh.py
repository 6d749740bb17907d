"""Contract: a domain's monitor is reached by virsh, and the VM is put back though libvirt was away."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.attach import virsh
from harness.attach.guard import DESCRIPTOR_NAME, WENT_ON
from harness.attach.machine import GUARD_LOG, AttachedMachine
from harness.attach.monitor import MonitorUnusable
from harness.attach.virsh import EVENTS_LOST, Domain, VirshMonitor, parse_event
from harness.errors import SetupBroken, SnapproofError
from harness.qemu.migration import BACKGROUND_SNAPSHOT, set_capability
from harness.qemu.qmp import CommandRefused
from tests_unit.support.fake_monitor import FakeVm
from tests_unit.support.fake_virsh import make_virsh


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def vm(place: Path) -> Iterator[FakeVm]:
    """A VM behind the fake virsh of the folder."""
    make_virsh(place)
    found = FakeVm(place / "qmp")
    yield found
    found.close()


def _machine(place: Path, max_stop: float = 60.0) -> AttachedMachine:
    return AttachedMachine(Domain("vm", str(place / "virsh")), place, max_stop)


def _calls(place: Path) -> list[list[str]]:
    return [json.loads(line) for line in (place / "calls").read_text().splitlines()]


def _wait(condition: object, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_put_back_through_virsh(place: Path, vm: FakeVm) -> None:
    """Capability, guest and descriptor are put back by the same commands, to the domain's number."""
    with _machine(place) as machine:
        reader, writer = os.pipe()
        machine.qmp.pass_descriptor(writer, DESCRIPTOR_NAME)
        os.close(reader)
        os.close(writer)
        set_capability(machine, BACKGROUND_SNAPSHOT, True)
        machine.qmp.execute("stop")
        assert (vm.state, list(vm.descriptors)) == ("paused", [DESCRIPTOR_NAME])
    assert (vm.state, vm.capabilities[BACKGROUND_SNAPSHOT], vm.descriptors) == ("running", False, {})
    assert all(words[2] == "5" for words in _calls(place) if words[1].startswith("qemu-monitor"))


def test_refusal_is_qemus(place: Path, vm: FakeVm) -> None:
    """QEMU's error arrives as one, and is not sent again."""
    vm.refused.add("stop")
    with _machine(place) as machine:
        with pytest.raises(CommandRefused, match="No"):
            machine.qmp.execute("stop")
        assert vm.commands.count("stop") == 1


def test_libvirt_that_is_away_is_awaited(place: Path, vm: FakeVm) -> None:
    """A guest that we have stopped is continued once libvirt is back, and the log says why that took time."""
    with _machine(place) as machine:
        machine.qmp.execute("stop")
        (place / "away").touch()
        threading.Timer(1.5, (place / "away").unlink).start()
        assert "The guest was continued." in machine.put_back()
    assert vm.state == "running"
    log = (place / GUARD_LOG).read_text()
    assert "libvirt does not pass 'query-status' on: failed to connect to the hypervisor; Failed to" in log


def test_silence_of_libvirt_is_not_blamed_on_qemu(place: Path, vm: FakeVm) -> None:
    """An answer that does not come while libvirt is away is no defect of QEMU."""
    with _machine(place) as machine:
        (place / "away").touch()
        error = machine.failure("QEMU does not answer")
        (place / "away").unlink()
        assert isinstance(error, SetupBroken)
        assert "since libvirt was away" in error.sentence
        assert not isinstance(machine.failure("QEMU does not answer"), SetupBroken)
    assert vm.state == "running"


def test_events(place: Path, vm: FakeVm) -> None:
    """They are passed on with their time; after libvirt was away, that some may be lost."""
    monitor = VirshMonitor(Domain("vm", str(place / "virsh")), lambda _sentence: None)
    try:
        (place / "events").write_text("event STOP at 12.000345 for domain 'vm': <null>\n")
        (event,) = monitor.receive()
        assert event == {"event": "STOP", "timestamp": {"seconds": 12, "microseconds": 345}}
        (place / "away").touch()
        time.sleep(0.2)
        (place / "away").unlink()
        assert monitor.receive()[0]["event"] == EVENTS_LOST
    finally:
        monitor.close()
    assert vm.commands == ["query-version"]


def test_guest_may_have_gone_on_unseen(place: Path, vm: FakeVm) -> None:
    """While libvirt was away a RESUME is not seen, so the save is refused: T0 may be another."""
    with _machine(place) as machine:
        machine.qmp.execute("stop")
        mark = machine.qmp.mark()
        (place / "away").touch()
        time.sleep(0.2)
        (place / "away").unlink()
        _wait(lambda: any(event.name == EVENTS_LOST for event in machine.qmp.events_since(mark)))
        with pytest.raises(CommandRefused, match=WENT_ON):
            machine.qmp.execute("migrate", {"uri": "fd:x"})
    assert "migrate" not in vm.commands


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("event RESUME at 7.000001 for domain 'a 'b': <null>", ("RESUME", 7, 1, None)),
        (
            'event JOB_STATUS_CHANGE at 7.5 for domain \'vm\': {"id":"x"}',
            ("JOB_STATUS_CHANGE", 7, 5, {"id": "x"}),
        ),
        ("events received: 2", None),
        ("", None),
    ],
)
def test_lines_of_virsh(line: str, event: tuple[str, int, int, object] | None) -> None:
    """Data that are none are left out; other lines are none."""
    found = parse_event(line)
    if event is None:
        assert found is None
        return
    name, seconds, microseconds, data = event
    wanted = {"event": name, "timestamp": {"seconds": seconds, "microseconds": microseconds}}
    assert found == wanted | ({"data": data} if data is not None else {})


def test_domain_that_does_not_run(place: Path) -> None:
    """Virsh gives it the number '-'."""
    program = place / "virsh"
    program.write_text("#!/bin/sh\necho -\n")
    program.chmod(0o755)
    with pytest.raises(MonitorUnusable, match="does not run"):
        VirshMonitor(Domain("vm", str(program)), lambda _sentence: None)


def test_no_virsh_and_no_domain(place: Path) -> None:
    """What is missing is named, with virsh's words."""
    with pytest.raises(MonitorUnusable, match="cannot be run: No such file"):
        Domain("vm", str(place / "none")).ask("domid", "vm")
    program = place / "virsh"
    program.write_text("#!/bin/sh\necho \"error: failed to get domain 'vm'\" >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(MonitorUnusable, match=r"'virsh domid': failed to get domain 'vm'\."):
        Domain("vm", str(program)).ask("domid", "vm")


def test_command_lines() -> None:
    """The connection is named where the user has named it."""
    assert Domain("vm").command("domid", "vm") == ["virsh", "--quiet", "domid", "vm"]
    named = Domain("vm", "/v", "qemu:///session")
    assert named.command("x") == ["/v", "--quiet", "--connect", "qemu:///session", "x"]
    by_hand = "(with \"virsh -c qemu:///session qemu-monitor-command vm --hmp 'COMMAND'\") cont"
    assert named.by_hand("cont") == by_hand
    assert virsh._words("error: a\nerror: b.\n") == "a; b"
    assert virsh._words("") == "it gives no reason"


def _image(place: Path, name: str) -> Path:
    """Write what the fake virsh takes for a save image: the name of its domain."""
    image = place / "image"
    image.write_text(name)
    return image


def test_copy_is_restored_paused_and_ended(place: Path, vm: FakeVm) -> None:
    """It is ended once, by its own name, and the VM's own domain is not."""
    with _machine(place) as machine:
        machine.restore_copy("copy-1", _image(place, "copy-1"), 30)
        assert (place / "copy").read_text() == "copy-1"
        assert machine.end_copy() is True
        assert machine.end_copy() is False
        assert machine.copy == ""
    words = [call[1:] for call in _calls(place) if call[1] in ("restore", "destroy")]
    assert words[0] == ["restore", str(place / "image"), "--paused"]
    assert {tuple(call) for call in words[1:]} == {("destroy", "copy-1")}
    assert vm.state == "running"


def test_copy_is_ended_by_the_guard(place: Path, vm: FakeVm) -> None:
    """The end of the attachment is enough; so it is for a command that was killed."""
    with _machine(place) as machine:
        machine.restore_copy("copy-1", _image(place, "copy-1"), 30)
    assert not (place / "copy").exists()
    assert "The domain 'copy-1' was ended." in (place / GUARD_LOG).read_text()
    assert vm.state == "running"


@pytest.mark.usefixtures("vm")
def test_copy_is_ended_though_its_vm_has(place: Path) -> None:
    """A VM that ends meanwhile takes no copy along."""
    with _machine(place) as machine:
        machine.restore_copy("copy-1", _image(place, "copy-1"), 30)
        (place / "gone").touch()
        with pytest.raises(SnapproofError):
            machine.qmp.execute("query-status")
        _wait(lambda: not (place / "copy").exists())


def test_copy_is_ended_by_the_next_guard(place: Path, vm: FakeVm) -> None:
    """A guard that takes over ends what the first one was asked for."""
    with _machine(place) as machine:
        machine.restore_copy("copy-1", _image(place, "copy-1"), 30)
        os.kill(machine.guard_pid, signal.SIGKILL)
        _wait(lambda: not machine._guard_runs())
        machine.put_back()
    assert not (place / "copy").exists()
    assert vm.state == "running"


def test_refusal_to_restore_is_libvirts(place: Path, vm: FakeVm) -> None:
    """Its words arrive, and what may have been begun is ended."""
    (place / "refusal").write_text("operation failed: domain 'x' is already defined")
    with _machine(place) as machine, pytest.raises(CommandRefused, match="is already defined"):
        machine.restore_copy("copy-1", _image(place, "copy-1"), 30)
    assert ["--quiet", "destroy", "copy-1"] in _calls(place)
    assert vm.state == "running"


def test_copy_that_libvirt_restores_late(place: Path, vm: FakeVm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for the copy until some time has passed, also while libvirt is away."""
    monkeypatch.setattr(virsh, "_LATE_SECONDS", 1.0)
    monkeypatch.setattr(virsh, "_RETRY_SECONDS", 0.05)
    said: list[str] = []
    monitor = VirshMonitor(Domain("vm", str(place / "virsh")), said.append)
    try:
        timer = threading.Timer(0.5, lambda: (place / "copy").write_text("copy-1"))
        timer.start()
        assert monitor.destroy("copy-1") is True
        timer.join()
        assert not (place / "copy").exists()
        (place / "away").touch()
        (place / "copy").write_text("copy-1")
        timer = threading.Timer(1.5, (place / "away").unlink)
        timer.start()
        assert monitor.destroy("copy-1") is True
        timer.join()
        assert any("does not end the domain 'copy-1'" in sentence for sentence in said)
        assert vm.state == "running"
    finally:
        monitor.close()
