"""Contract: a daemon that ends before its time is blamed by name, and not the QEMU that it serves."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import SetupBroken, SubjectFailed
from harness.linux.socket_folder import socket_folder
from tests_functional.lib import daemons
from tests_functional.lib.daemons import Daemon, Service, served

_LISTENS = "import socket,sys,time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()"
_ANY = cast(Any, None)


@pytest.fixture(name="path")
def _path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(daemons, "packaged_program", lambda *_: [sys.executable, "-c"])
    with socket_folder() as folder:
        yield folder / "socket"


def _daemon(program: str) -> Daemon:
    # A brace in the program would be a value's.
    return Daemon("package", "some-daemon", (program, "{socket}"))


def test_daemon_that_serves(path: Path, tmp_path: Path) -> None:
    """It listens when it is yielded, is no crash while it runs, and is ended behind the `with`."""
    with served(
        _daemon(f"{_LISTENS}; time.sleep(60)"), {"socket": str(path)}, tmp_path / "log", _ANY
    ) as service:
        assert path.exists()
        assert service.crash(qemu_runs=True) is None
        service.require_alive()
        with pytest.raises(SubjectFailed, match="QEMU is wrong"), service.blamed():
            raise SubjectFailed("QEMU is wrong.")
        assert service.process is not None
        os.kill(service.process.pid, signal.SIGSEGV)
        service.process.wait(Deadline(10))
        words = "some-daemon was ended by signal 11 while QEMU used it, which says nothing about QEMU"
        with pytest.raises(SetupBroken, match=words), service.blamed():
            raise SubjectFailed("QEMU is wrong.")
        with pytest.raises(SetupBroken, match=words):
            service.require_alive()
        assert service.crash(qemu_runs=False) is not None


@pytest.mark.parametrize("code", [0, 1])
def test_daemon_that_ends_by_itself(path: Path, tmp_path: Path, code: int) -> None:
    """It may when its QEMU has ended, and not before; its last words are named."""
    program = f"{_LISTENS}; time.sleep(0.3); print('Enough.'); sys.exit({code})"
    with served(_daemon(program), {"socket": str(path)}, tmp_path / "log", _ANY) as service:
        assert service.process is not None
        service.process.wait(Deadline(10))
        assert service.crash(qemu_runs=False) is None
        found = service.crash(qemu_runs=True)
        assert found is not None
        assert f"some-daemon ended with exit code {code} while" in found.sentence
        assert found.sentence.endswith("its last words: Enough.")


def test_daemon_that_does_not_start(path: Path, tmp_path: Path) -> None:
    """Its name and its last words are in the sentence."""
    with (
        pytest.raises(SetupBroken, match=r"some-daemon ended at its start; its last words: No\.$"),
        served(_daemon("import sys; sys.exit('No.')"), {"socket": str(path)}, tmp_path / "log", _ANY),
    ):
        pass


def test_no_daemon() -> None:
    """A QEMU without one is never excused."""
    assert Service().crash(qemu_runs=True) is None
    Service().require_alive()
    with pytest.raises(SubjectFailed), Service().blamed():
        raise SubjectFailed("QEMU is wrong.")
