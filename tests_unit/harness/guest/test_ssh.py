"""SSH to a guest: what this machine cannot do is not a guest that does not answer."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import paramiko
import pytest

from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.guest.identity import SshIdentity
from harness.guest.shell import GuestUnreachable
from harness.guest.ssh import SshShell, attempt_seconds
from harness.linux.listeners import Endpoint


@pytest.fixture
def identity(tmp_path: Path) -> SshIdentity:
    """A login with a key of its own and without a known host key."""
    key = tmp_path / "key"
    paramiko.ECDSAKey.generate().write_private_key_file(str(key))
    return SshIdentity("root", key, "", first_seen=tmp_path / "host-key")


def _fail(error: OSError) -> Any:
    def connect(*_: Any, **__: Any) -> None:
        raise error

    return connect


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EMFILE, "Too many open files"), SetupBroken),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), GuestUnreachable),
        (TimeoutError("timed out"), GuestUnreachable),
    ],
)
def test_a_limit_of_ours_is_no_silence_of_the_guest(
    identity: SshIdentity, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: type[Exception]
) -> None:
    """A process without free descriptors cannot ask; a guest that refuses or is silent does not answer."""
    monkeypatch.setattr(paramiko.SSHClient, "connect", _fail(error))
    with pytest.raises(expected) as caught:
        SshShell(Endpoint("127.0.0.1", 1), identity).connect(Deadline(0.2))
    assert type(caught.value) is expected


def test_a_key_that_cannot_be_read_is_ours(tmp_path: Path) -> None:
    """A missing private key is said at once, as our own set-up."""
    with pytest.raises(SetupBroken, match=r"SSH key .* cannot be read") as caught:
        SshShell(Endpoint("127.0.0.1", 1), SshIdentity("root", tmp_path / "none", "")).connect(Deadline(5))
    assert type(caught.value) is SetupBroken


def test_a_host_key_that_cannot_be_kept_is_ours(
    identity: SshIdentity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that takes no file is not a guest that does not answer."""

    def connect(client: Any, *_: Any, **__: Any) -> None:
        client._policy.missing_host_key(client, "guest", paramiko.ECDSAKey.generate())

    (tmp_path / "host-key").mkdir()
    monkeypatch.setattr(SshIdentity, "pinned", lambda _identity: "")
    monkeypatch.setattr(paramiko.SSHClient, "connect", connect)
    with pytest.raises(SetupBroken, match="host key cannot be written"):
        SshShell(Endpoint("127.0.0.1", 1), identity).connect(Deadline(0.2))


def test_slow_guest_gets_longer_attempts() -> None:
    """A guest that needs more than the usual time for a login gets it in the end, and the limit holds."""
    assert [attempt_seconds(passed, 90.0) for passed in (0.0, 39.0, 240.0)] == [5.0, 5.0, 30.0]
    assert attempt_seconds(240.0, 3.0) == 3.0
    assert attempt_seconds(1.0, 90.0, 20.0) == 20.0
    assert attempt_seconds(240.0, 0.0) == 0.1
