"""Contract: a planted fault counts as caught only if it acted and the sweep called it by its code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from harness.codes import Code
from tests_functional.devices.planted import (
    ACTED,
    DEVICE_FAULTS,
    QEMU_PID,
    Act,
    DeviceFault,
    Place,
    _wrapper,
    judge_planted,
    stand_in_command,
)
from tests_unit.support.scenario_values import codes
from validators.checks import Problem, judged

_FAULT = DeviceFault("cut", Act.CUT, Place.LOAD, Code.DEVICES_NOT_RESTORED)
_ROOT = Path(__file__).parents[3]


def _check(code: Code) -> list[Code]:
    return codes(judge_planted(_FAULT, True, [judged("devices/x", "It holds.", [Problem(code, "So.")])]))


def test_fault_is_caught_by_its_code() -> None:
    """Another code is not enough, and neither is a green sweep."""
    assert _check(Code.DEVICES_NOT_RESTORED) == []
    assert _check(Code.DEVICES_DIFFERS) == [Code.DEVICES_FAULT_UNSEEN]
    assert codes(judge_planted(_FAULT, True, [])) == [Code.DEVICES_FAULT_UNSEEN]


def test_fault_that_never_acted_shows_nothing() -> None:
    """Then the sweep found something for another reason."""
    found = judged("devices/x", "It holds.", [Problem(Code.DEVICES_NOT_RESTORED, "So.")])
    assert codes(judge_planted(_FAULT, False, [found])) == [Code.SETUP_BROKEN]


def test_each_check_of_a_device_has_a_fault() -> None:
    """All codes of a device's passage."""
    codes_of_passage = {code for code in Code if code.subject == "devices"}
    assert {fault.code for fault in DEVICE_FAULTS} == codes_of_passage - {Code.DEVICES_FAULT_UNSEEN}


@pytest.mark.parametrize(
    ("arguments", "stopped"),
    [
        (["-device", "ne2k_pci"], True),
        (["-device", "ne2k_pci", "-incoming", "defer"], False),
        (["-device", "virtio-blk-pci"], False),
    ],
)
def test_guest_that_does_not_start(tmp_path: Path, arguments: list[str], stopped: bool) -> None:
    """Only the source with the device does not; that counts as an act."""
    fault = DeviceFault("x", Act.START_STOPPED, Place.START, Code.DEVICES_NOT_BOOTED)
    qemu = tmp_path / "real"
    qemu.write_text('#!/bin/sh\necho "$@"\n')
    qemu.chmod(0o755)
    done = subprocess.run([_wrapper(fault, qemu, tmp_path), *arguments], capture_output=True, text=True)
    assert done.stdout.split() == [*arguments, *(["-S"] if stopped else [])]
    assert (tmp_path / "acted").exists() == stopped


def test_qemu_that_is_stopped_has_a_monitor(tmp_path: Path) -> None:
    """Its socket is named by QEMU's process id; all other faults need none."""
    qemu = tmp_path / "real"
    qemu.write_text('#!/bin/sh\necho "$@" $SNAPPROOF_QEMU_PID\n')
    qemu.chmod(0o755)
    for act in Act:
        folder = tmp_path / act
        folder.mkdir()
        wrapper = _wrapper(DeviceFault("x", act, Place.SAVE, Code.DEVICES_LOST), qemu, folder)
        *said, pid = subprocess.run([wrapper], capture_output=True, text=True).stdout.split()
        monitor = f"socket,id=planted,path=snapproof-planted-{pid},abstract=on,server=on,wait=off"
        wanted = ["-chardev", monitor, "-mon", "chardev=planted,mode=control"]
        assert said == (wanted if act is Act.STOP else [])


@pytest.mark.parametrize("size", [100, 3 << 20])
def test_guest_is_stopped_and_its_stream_passed_on(tmp_path: Path, size: int) -> None:
    """It is stopped by QEMU's monitor, whose events are read past."""
    name, place = f"\0snapproof-planted-{os.getpid()}", tmp_path / "source" / "vmstate"
    place.parent.mkdir()
    said: list[str] = []

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rw") as lines:
            print('{"QMP": {}}', file=lines, flush=True)
            for line in lines:
                said.append(json.loads(line)["execute"])
                print('{"event": "STOP"}\n{"return": {}}', file=lines, flush=True)

    with socket.socket(socket.AF_UNIX) as server, place.open("wb") as output:
        server.bind(name)
        server.listen()
        thread = threading.Thread(target=answer, args=(server,), daemon=True)
        thread.start()
        fault = DeviceFault("x", Act.STOP, Place.SAVE, Code.DEVICES_STANDS_STILL)
        environment = {**os.environ, ACTED: str(tmp_path), QEMU_PID: str(os.getpid())}
        subprocess.run(
            stand_in_command(fault),
            input=bytes(size),
            stdout=output,
            env=environment,
            cwd=_ROOT,
            check=True,
            timeout=60,
        )
        thread.join(20)
    assert place.read_bytes() == bytes(size)
    assert said == ["qmp_capabilities", "stop"]


@pytest.mark.parametrize(
    ("place", "folder", "acts"),
    [
        (Place.LOAD, "guest-2/source", True),
        (Place.LOAD, "machine-alone/source", False),
        (Place.SAVE, "guest-2/source", False),
    ],
)
def test_stand_in_acts_in_its_place_alone(tmp_path: Path, place: Place, folder: str, acts: bool) -> None:
    """Elsewhere it is `cat`: the guest without the device must get to its end."""
    file = tmp_path / folder / "vmstate"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"12345678")
    command = [*stand_in_command(DeviceFault("x", Act.CUT, place, Code.DEVICES_LOST)), str(file)]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), ACTED: str(tmp_path), QEMU_PID: "0"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stdout == (b"1234" if acts else b"12345678")
    assert (tmp_path / "acted").exists() == acts


@pytest.mark.parametrize(
    ("place", "folder", "code"),
    [(Place.SAVE, "source", 1), (Place.SAVE, "later", 0), (Place.SAVE_AGAIN, "restored", 1)],
)
def test_stand_in_knows_the_save_by_its_file(tmp_path: Path, place: Place, folder: str, code: int) -> None:
    """Only the first save of the source, or that of the restored guest, is refused."""
    (tmp_path / folder).mkdir()
    command = stand_in_command(DeviceFault("x", Act.REFUSE, place, Code.DEVICES_LOST))
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), ACTED: str(tmp_path), QEMU_PID: "0"}
    with (tmp_path / folder / "vmstate").open("wb") as file:
        done = subprocess.run(command, env=environment, input=b"abc", stdout=file, check=False)
    assert done.returncode == code
    assert (tmp_path / folder / "vmstate").read_bytes() == (b"" if code else b"abc")
