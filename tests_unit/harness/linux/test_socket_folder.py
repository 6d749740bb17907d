"""Contract: a folder for sockets has a path that a socket can have, and is gone afterwards."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from harness.errors import SetupBroken
from harness.linux import socket_folder as module
from harness.linux.socket_folder import socket_folder


def _listens(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket-0"))
    return True


def test_socket_is_made_and_removed() -> None:
    """Each folder is new, and what is in it goes with it."""
    with socket_folder() as folder, socket_folder() as other:
        assert folder != other
        assert not list(folder.iterdir())
        assert _listens(folder)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["n" * 100, "a:b"])
def test_temporary_folder_that_no_socket_can_be_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A path that is too long, or that looks like an address, is passed over."""
    (tmp_path / name).mkdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / name))
    with socket_folder() as folder:
        assert tmp_path not in folder.parents
        assert _listens(folder)
    assert not list((tmp_path / name).iterdir())


def test_no_place_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has the reason, and what to do."""
    monkeypatch.setattr(module, "_MOST_BYTES", 5)
    with (
        pytest.raises(SetupBroken, match=r"too long for a socket\); set TMPDIR to a folder"),
        socket_folder(),
    ):
        pass
