"""Contract: an ssh-agent that does not answer ends a login in time, with a sentence that names it."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import MachineryMissing
from harness.hosts import ssh
from harness.hosts.spec import SshAddress


@pytest.mark.parametrize("accepts", [True, False])
def test_silent_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepts: bool) -> None:
    """It takes the connection and is silent, or takes none any more."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    monkeypatch.setattr(ssh, "_AGENT_SECONDS", 0.5)
    with socket.socket(socket.AF_UNIX) as agent, socket.socket() as server:
        agent.bind(str(tmp_path / "agent"))
        agent.listen(5 if accepts else 0)
        server.bind(("127.0.0.1", 0))
        address = SshAddress("127.0.0.1", server.getsockname()[1])
        waiting = [] if accepts else [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(str(tmp_path / "agent"))
        begun = time.monotonic()
        with pytest.raises(MachineryMissing, match=r"ssh-agent .* does not answer"):
            ssh.ssh_host(address, Deadline(5))
        assert time.monotonic() - begun < 4
        for other in waiting:
            other.close()


def test_no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that nobody listens at is no agent."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "none"))
    assert ssh._agent_answers(1.0)
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert ssh._agent_answers(1.0)
