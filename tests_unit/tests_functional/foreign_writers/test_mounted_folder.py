"""Contract: a guest mounts, reads and lets go its shared folder, and wrong bytes when restored are red."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from harness.codes import Code
from harness.errors import SetupBroken
from harness.linux.socket_folder import socket_folder
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused
from harness.status import Status
from tests_functional.foreign_writers.kinds import Place
from tests_functional.foreign_writers.marks import Marks
from tests_functional.foreign_writers.mounted_folder import _arguments, _client, judge_folder
from tests_functional.lib.drivers.nine_p import SharedFolder
from tests_unit.support.real_machine import real_machine

_CONTENT = b"content"


class _Client:
    def __init__(self, content: bytes | None) -> None:
        self._content = content

    def read(self, _name: str, _size: int) -> bytes:
        if self._content is None:
            raise SetupBroken("The guest's shared folder answers a request of type 116 by error 5.")
        return self._content


def test_right_content_is_right() -> None:
    """The steps are done before."""
    done: list[str] = []
    check = judge_folder(cast(SharedFolder, _Client(_CONTENT)), [lambda: done.append("mounted")], _CONTENT)
    assert (check.status, done) == (Status.PASS, ["mounted"])


@pytest.mark.parametrize(
    ("found", "words"),
    [(None, "error 5"), (b"c0ntent", "7 bytes of a file of 7, of which 1"), (b"", "reads 0")],
)
def test_other_content_is_wrong(found: bytes | None, words: str) -> None:
    """So are less of it, and an error."""
    check = judge_folder(cast(SharedFolder, _Client(found)), [], _CONTENT)
    assert [violation.code for violation in check.violations] == [Code.FOREIGN_WRITER_SILENT]
    assert words in check.violations[0].sentence


@contextmanager
def _folder(path: Path) -> Iterator[tuple[Machine, SharedFolder]]:
    shared = path / "shared"
    shared.mkdir()
    (shared / "file").write_bytes(_CONTENT)
    with socket_folder() as sockets:
        place = Place(shared, sockets / "socket", Marks())
        with real_machine(path / "machine", *_arguments(place)) as machine:
            client = _client(machine, place)
            client.start()
            yield machine, client


@pytest.mark.vm
def test_folder_is_mounted_and_let_go(tmp_path: Path) -> None:
    """QEMU refuses a save between the two alone, and the device an unknown file."""
    with _folder(tmp_path) as (machine, client):
        save = {"uri": f"exec:cat > {tmp_path}/file"}
        client.mount()
        assert client.read("file", len(_CONTENT)) == client.read("file", 100) == _CONTENT
        with pytest.raises(SetupBroken, match="type 110 by error 2"):
            client.read("none", 1)
        with pytest.raises(CommandRefused, match="VirtFS"):
            machine.qmp.execute("migrate", save)
        client.unmount()
        with pytest.raises(SetupBroken, match="type 110 by error"):
            client.read("file", 1)
        machine.qmp.execute("migrate", save)
