"""Contract: no command line of another user is run with our rights, and the guest's data are ours alone."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.attach.clone import ClonedMachine
from harness.attach.enter import enter
from harness.attach.pins import PinnedDisk, Pins
from harness.attach.process import QemuProcess
from harness.errors import NotApplicable
from harness.qemu.configuration import MachineConfig

_CONFIG = MachineConfig(
    Path("qemu"),
    accel="tcg",
    ram_mib=1,
    vcpus=1,
    machine="pc",
    kernel=None,
    initrd=None,
    cmdline="",
    virtio=False,
)


class _Source:
    """A VM of a user."""

    config = _CONFIG

    def __init__(self, uid: int, *argv: str) -> None:
        self.process = QemuProcess(os.getpid(), ("qemu", *argv), None, uid, 7, False, True, True, 1)
        self.qmp = self

    def execute(self, _command: str, _arguments: object) -> Any:
        return []


def test_links_are_given_as_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of the sockets stand where the command line names them, and QEMU inherits those sockets."""
    started: list[tuple[list[str], tuple[int, ...]]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "nbd"))
    listener.listen()

    def launch(clone: ClonedMachine) -> None:
        started.append((clone.arguments(9, ""), clone.passed_files()))

    monkeypatch.setattr("harness.attach.clone.SpawnedMachine._launch", launch)
    source: Any = _Source(
        os.geteuid(),
        *("-chardev", "null,id=c", "-device", "virtserialport,chardev=c,name=port"),
        *("-blockdev", "driver=null-co,node-name=top", "-blockdev", "driver=null-co,node-name=other"),
    )
    pins = Pins((PinnedDisk("top", "/vm.img", "pin-0"),), tmp_path / "nbd")
    with ClonedMachine(source, tmp_path / "restored", pins, "port") as clone:
        ((argv, files),) = started
        assert clone.overlays == 1, "one of the two disks has the content of now"
        assert clone.agent is not None
        numbers = [
            int(word.partition(key)[2].partition(",")[0])
            for word in argv
            for key in ("id=c,fd=", "server.str=")
            if key in word
        ]
        assert len(set(numbers)) == 2 and set(numbers) <= set(files) and len(files) == 4
        assert not any("@" in word for word in argv)
        clone._process = None
    assert clone.agent is None
    listener.close()


def test_vm_of_another_user_is_cloned_as_that_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of its command line is run with our rights: root takes on its user and group first."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    other: Any = _Source(1234)
    argv = ClonedMachine(other, tmp_path / "restored").arguments(9, "")
    enter = next(at for at, word in enumerate(argv) if word.endswith("attach/enter.py"))
    assert argv[enter + 1 : enter + 4] == [str(os.getpid()), "1234", "7"]
    assert argv[enter + 4] == f"/proc/{os.getpid()}/exe"
    own: Any = _Source(0)
    assert not any("enter.py" in word for word in ClonedMachine(own, tmp_path / "own").arguments(9, ""))


def test_vm_of_another_user_is_not_cloned_without_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root can take on another user."""
    monkeypatch.setattr("os.geteuid", lambda: 1)
    source: Any = _Source(1234)
    with pytest.raises(NotApplicable, match=r"user 1234 and this command as user 1;"):
        ClonedMachine(source, tmp_path / "restored")


@pytest.mark.parametrize("root", [True, False])
def test_vm_in_another_mount_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool) -> None:
    """Its paths mean other files here, so the clone enters it, with the program that runs there."""
    monkeypatch.setattr("os.geteuid", lambda: 0 if root else 5)
    source: Any = _Source(0 if root else 5)
    program = str(Path(sys.executable).resolve())
    source.process = replace(source.process, same_files=False, argv=(program, "-m", "1"))
    if not root:
        with pytest.raises(NotApplicable, match="in another mount namespace"):
            ClonedMachine(source, tmp_path / "restored")
        return
    argv = ClonedMachine(source, tmp_path / "restored").arguments(9, "")
    assert argv[argv.index("-m") - 1] == program
    source.process = replace(source.process, argv=("/bin/true", "-m", "1"))
    with pytest.raises(NotApplicable, match="no longer the one that runs"):
        ClonedMachine(source, tmp_path / "restored")


def test_entered_program_has_the_user_and_none_of_our_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups go first, since the user may not change them; what started us is looked at last."""
    done: list[tuple[object, ...]] = []
    for name in ("chdir", "setgroups", "setresgid", "setresuid", "execve"):
        monkeypatch.setattr(f"os.{name}", lambda *words, name=name: done.append((name, *words)))
    monkeypatch.setenv("QEMU_MODULE_DIR", "/modules")
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setattr("harness.attach.enter._become_mortal", lambda: done.append(("mortal",)))
    enter(os.getpid(), 12, 34, ["/qemu", "-m", "1"])
    names = [one[0] for one in done]
    assert names == ["chdir", "setgroups", "setresgid", "setresuid", "mortal", "execve"]
    assert done[1:4] == [("setgroups", []), ("setresgid", 34, 34, 34), ("setresuid", 12, 12, 12)]
    variables = {"PATH": "/usr/bin:/bin", "QEMU_MODULE_DIR": "/modules"}
    assert done[-1] == ("execve", "/qemu", ["/qemu", "-m", "1"], variables)


def test_folder_of_the_overlays_is_ours_alone(tmp_path: Path) -> None:
    """What the guest writes is nobody else's."""
    (tmp_path / "disk").write_bytes(bytes(4096))
    source: Any = _Source(os.geteuid(), "-hda", str(tmp_path / "disk"))
    clone = ClonedMachine(source, tmp_path / "restored")
    assert clone.overlays == 1
    assert (tmp_path / "restored").stat().st_mode & 0o777 == 0o700
