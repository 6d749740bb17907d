"""Contract: no command line of another user is run with our rights, and the guest's data are ours alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness.attach.clone import ClonedMachine
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
        self.process = QemuProcess(os.getpid(), ("qemu", *argv), None, uid, False, True, True, 1)
        self.qmp = self

    def execute(self, _command: str, _arguments: object) -> Any:
        return []


def test_vm_of_another_user_is_not_cloned(tmp_path: Path) -> None:
    """As root, its program and options would be run as root."""
    with pytest.raises(NotApplicable, match=rf"user {os.geteuid() + 1} and this command as user"):
        ClonedMachine(_Source(os.geteuid() + 1), tmp_path / "restored")  # type: ignore[arg-type]


def test_folder_of_the_overlays_is_ours_alone(tmp_path: Path) -> None:
    """What the guest writes is nobody else's."""
    (tmp_path / "disk").write_bytes(bytes(4096))
    source: Any = _Source(os.geteuid(), "-hda", str(tmp_path / "disk"))
    clone = ClonedMachine(source, tmp_path / "restored")
    assert clone.overlays == 1
    assert (tmp_path / "restored").stat().st_mode & 0o777 == 0o700
