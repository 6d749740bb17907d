"""Contract: what a sink receives is in its file, all of it, slowly while the other file is there."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import SetupBroken
from harness.qemu.machine import Machine
from tests_functional.during_save import sinks
from tests_functional.during_save.sinks import command_sink, descriptor_sink, socket_sink

_MESSAGE = os.urandom(700_000)


def _send(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(address.removeprefix("unix:"))
        sender.sendall(_MESSAGE)


class _Qmp:
    """Keeps the descriptor that it is given, as QEMU does."""

    def pass_descriptor(self, descriptor: int, name: str) -> None:
        assert name == "save"
        self.kept = os.dup(descriptor)


@pytest.mark.parametrize("slow", [True, False])
def test_socket(tmp_path: Path, slow: bool) -> None:
    """700,000 bytes are four pieces, and take a fifth of a second while the sink is slow."""
    path, sign = tmp_path / "vmstate", tmp_path / "slow"
    if slow:
        sign.touch()
    begun = time.monotonic()
    with socket_sink(cast(Machine, None), path, sign) as uri:
        assert uri.startswith("unix:/")
        _send(uri)
    assert path.read_bytes() == _MESSAGE
    assert (time.monotonic() - begun > 0.15) is slow


def test_descriptor(tmp_path: Path) -> None:
    """Only QEMU has the end that is written to, or the file would never end."""
    qmp: Any = _Qmp()
    machine = cast(Machine, SimpleNamespace(qmp=qmp))
    with descriptor_sink(machine, tmp_path / "vmstate", tmp_path / "slow") as uri:
        assert uri == "fd:save"
        os.write(qmp.kept, b"state")
        os.close(qmp.kept)
    assert (tmp_path / "vmstate").read_bytes() == b"state"


def test_socket_of_a_late_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sink waits for QEMU for longer than for the end of the file."""
    monkeypatch.setattr(sinks, "_END_SECONDS", 0.05)
    with socket_sink(cast(Machine, None), tmp_path / "vmstate", tmp_path / "slow") as uri:
        time.sleep(0.2)
        _send(uri)
        while (tmp_path / "vmstate").stat().st_size < len(_MESSAGE):
            time.sleep(0.01)
    assert (tmp_path / "vmstate").read_bytes() == _MESSAGE


def test_socket_that_nobody_connects_to(tmp_path: Path) -> None:
    """The sink of a save that never began ends at once, and leaves no thread."""
    begun = time.monotonic()
    with socket_sink(cast(Machine, None), tmp_path / "vmstate", tmp_path / "slow"):
        pass
    assert time.monotonic() - begun < 30
    assert not [thread for thread in threading.enumerate() if thread.name == "sink"]


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    """A file that cannot be written is no failure of QEMU's, which sees its connection closed."""
    with (
        pytest.raises(SetupBroken, match=r"could not be written: .*No such file"),
        socket_sink(cast(Machine, None), tmp_path / "none" / "vmstate", tmp_path / "slow") as uri,
        contextlib.suppress(OSError),
    ):
        _send(uri)


def test_command(tmp_path: Path) -> None:
    """The default is a command, as in all other tests."""
    with command_sink(cast(Machine, None), tmp_path / "vmstate", tmp_path / "slow") as uri:
        assert uri.startswith("exec:")
