"""QMP and SpawnedMachine: every wait ends, QEMU's death is told from its silence, nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SetupBroken, SubjectFailed
from harness.process import session_members
from harness.qemu import spawned_machine
from harness.qemu.configuration import VARIABLES_FILE, Flash, MachineConfig, qemu_argv
from harness.qemu.migration import find_stun
from harness.qemu.qmp import CommandRefused
from harness.qemu.spawned_machine import SpawnedMachine
from tests_unit.support import fake_qemu

_FAKE = Path(fake_qemu.__file__)


@pytest.fixture
def machine(tmp_path: Path) -> SpawnedMachine:
    """A machine on the stand-in QEMU, not yet started."""
    config = MachineConfig(_FAKE, tmp_path / "kernel", tmp_path / "initrd", "console=ttyS0", accel="tcg")
    return SpawnedMachine(config, tmp_path / "machine")


def test_every_message_is_logged(machine: SpawnedMachine) -> None:
    """qmp.jsonl holds both directions, one JSON object per line, with host time."""
    with machine:
        assert machine.version() == "1.2.3"
        pid = machine.pid
    lines = [json.loads(line) for line in (machine.folder / "qmp.jsonl").read_text().splitlines()]
    assert {line["dir"] for line in lines} == {"in", "out"}
    assert any(line["msg"].get("execute") == "query-version" for line in lines)
    assert session_members(pid) == []


def test_the_way_to_the_guests_ssh_is_found(machine: SpawnedMachine) -> None:
    """It is where QEMU itself listens; a second machine has another address, and neither is 127.0.0.1."""
    with machine, SpawnedMachine(machine.config, machine.folder / "second") as second:
        socket.create_connection(machine.ssh, 5).close()
        socket.create_connection(second.ssh, 5).close()
        assert len({machine.ssh.address, second.ssh.address, "127.0.0.1"}) == 3


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("forward-nothing", r"nothing listens at 127\.\d+\.\d+\.\d+, where .* network namespace of its own"),
        ("forward-twice", r"Several sockets listen at 127\.\d+\.\d+\.\d+ \(ports \d+, \d+\)"),
    ],
)
def test_a_way_that_cannot_be_found_is_no_fault_of_qemu(
    machine: SpawnedMachine, monkeypatch: pytest.MonkeyPatch, behaviour: str, sentence: str
) -> None:
    """E.g. a wrapper runs QEMU in another network namespace."""
    monkeypatch.setenv("FAKE_QEMU", behaviour)
    monkeypatch.setattr(spawned_machine, "_LISTEN_SECONDS", 0.1)
    with pytest.raises(SetupBroken, match=sentence):
        machine.__enter__()
    assert session_members(machine.pid) == []


def test_refusal_carries_qemus_own_text(machine: SpawnedMachine) -> None:
    """A refused command is told from a broken QEMU, with QEMU's reason."""
    with machine, pytest.raises(CommandRefused, match="it cannot be") as caught:
        machine.qmp.execute("refuse")
    assert caught.value.reason == "it cannot be"
    assert (caught.value.code, caught.value.fields) == (Code.QMP_REFUSED, {"command": "refuse"})


def test_silence_is_a_failure_of_qemu(machine: SpawnedMachine) -> None:
    """A command that is not answered ends the wait at its deadline and blames QEMU."""
    with machine, pytest.raises(SubjectFailed, match="did not answer 'hang' within") as caught:
        machine.qmp.execute("hang", deadline=Deadline(0.3))
    assert caught.value.code is Code.QMP_NO_ANSWER
    assert caught.value.fields["command"] == "hang"


def test_death_is_seen_while_a_command_waits(machine: SpawnedMachine) -> None:
    """A QEMU that dies ends the wait long before its deadline, with its exit code."""
    limit = Deadline(20)
    with (
        machine,
        pytest.raises(SubjectFailed, match=r"QEMU ended before it answered 'die'.*exit code 7") as caught,
    ):
        machine.qmp.execute("die", deadline=Deadline(60))
    assert caught.value.code is Code.QEMU_ENDED
    assert limit.remaining() > 10


def test_a_qemu_that_the_kernel_kills_is_a_limit_of_the_machine(machine: SpawnedMachine) -> None:
    """SIGKILL that we did not send is no fault of QEMU's, and SIGKILL that we sent is no limit."""
    with machine:
        os.kill(machine.pid, signal.SIGKILL)
        with pytest.raises(SetupBroken, match=r"exit code -9.*SIGKILL") as caught:
            machine.qmp.execute("query-status")
        assert caught.value.code is Code.SETUP_LIMIT
    with machine:
        machine.kill()
        with pytest.raises(SubjectFailed, match="exit code -9"):
            machine.qmp.execute("query-status")


def test_a_qemu_without_memory_at_its_start_is_a_limit(
    machine: SpawnedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU says so itself when it cannot map the guest's RAM."""
    monkeypatch.setenv("FAKE_QEMU", "no-memory")
    with pytest.raises(SetupBroken, match="Cannot allocate memory") as caught:
        machine.__enter__()
    assert caught.value.code is Code.SETUP_LIMIT


def test_death_at_start_shows_qemus_last_words(
    machine: SpawnedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU that does not start gives its own message, and nothing of it is left."""
    monkeypatch.setenv("FAKE_QEMU", "die-at-once")
    with pytest.raises(SubjectFailed, match="no such machine"):
        machine.__enter__()
    assert session_members(machine.pid) == []


def test_events_wait_for_their_mark_and_time_out(machine: SpawnedMachine) -> None:
    """An event is found after its mark only; a missing one is a failure in time."""
    with machine:
        mark = machine.qmp.mark()
        machine.qmp.execute("stop")
        found = machine.qmp.wait_event(lambda event: event.name == "STOP", mark, Deadline(5), "STOP")
        assert found.seconds == 5.25
        with pytest.raises(SubjectFailed, match="did not send STOP") as caught:
            machine.qmp.wait_event(lambda _event: True, machine.qmp.mark(), Deadline(0.2), "STOP")
        assert caught.value.code is Code.QMP_NO_EVENT
        assert find_stun(machine, mark) is None


def test_a_machine_that_was_not_started_says_so(machine: SpawnedMachine) -> None:
    """Use outside the `with` is our mistake, not QEMU's."""
    with pytest.raises(SetupBroken):
        machine.qmp.execute("quit")


def test_incoming_differs_only_in_incoming(tmp_path: Path) -> None:
    """Source and restored guest get the same machine, or the stream would not fit."""
    config = MachineConfig(
        _FAKE, tmp_path / "k", tmp_path / "i", "quiet", accel="tcg", extra=("-device", "virtio-rng-pci")
    )
    source = qemu_argv(config, tmp_path, 7, "127.1.2.3", incoming=False)
    target = qemu_argv(config, tmp_path, 7, "127.1.2.3", incoming=True)
    position = target.index("-incoming")
    assert target[:position] + target[position + 2 :] == source


def test_uefi_variables_are_a_copy_for_each_qemu(machine: SpawnedMachine, tmp_path: Path) -> None:
    """Both QEMUs read one program, write to variables of their own, and leave neither behind."""
    flash = Flash("made-up", tmp_path / "code,1", tmp_path / "variables")
    flash.variables.write_bytes(b"as at first")
    flash.variables.chmod(0o444)
    config = replace(machine.config, flash=flash)
    folders = (tmp_path / "source", tmp_path / "restored")
    with SpawnedMachine(config, folders[0]), SpawnedMachine(config, folders[1], incoming=True):
        for folder in folders:
            (folder / VARIABLES_FILE).write_bytes(b"written")
            words = (folder / "command.txt").read_text()
            assert "if=pflash,unit=0,format=raw,readonly=on,file=" in words
            assert "code,,1" in words
            assert f"if=pflash,unit=1,format=raw,file={folder / VARIABLES_FILE}" in words
    assert not [folder for folder in folders if (folder / VARIABLES_FILE).exists()]
    assert flash.variables.read_bytes() == b"as at first"
    with machine:
        assert "pflash" not in (machine.folder / "command.txt").read_text()
