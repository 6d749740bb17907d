"""Log in to a lab machine over SSH and use it as a host; it needs only Python 3.9 or newer."""

from __future__ import annotations

import getpass
import os
import socket

import paramiko

from harness.deadline import Deadline
from harness.errors import MachineryMissing, UsageError
from harness.guest.ssh import host_key, require_private_key
from harness.hosts.host import Host
from harness.hosts.link import SshLink
from harness.hosts.spec import SshAddress

_KEEPALIVE_SECONDS = 5
_AGENT_SECONDS = 5.0
# draft-miller-ssh-agent: the length of the message, and SSH_AGENTC_REQUEST_IDENTITIES.
_REQUEST_IDENTITIES = b"\0\0\0\1\x0b"


def ssh_host(address: SshAddress, deadline: Deadline, python: str = "python3") -> Host:
    """Log in to a lab machine and return it as a host; leaving the host's `with` closes the connection.

    Args:
        address: the lab machine.
        deadline: for the login.
        python: the Python to use on it.

    Raises:
        UsageError: its host key is unknown or a different one, or it does not accept our key.
        MachineryMissing: it does not answer, or its SSH server has no algorithm in common with us.
    """
    transport = _login(address, deadline).get_transport()
    assert transport is not None, "a client that is logged in has a transport"
    transport.set_keepalive(_KEEPALIVE_SECONDS)
    return Host(address.name, SshLink(transport), python)


def _login(address: SshAddress, deadline: Deadline) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    _load_host_keys(client, address)
    seconds = max(1.0, deadline.remaining())
    key = _key(address, seconds)
    where = f"The host '{address.name}'"
    try:
        client.connect(
            address.address,
            port=address.port,
            username=address.user or getpass.getuser(),
            pkey=key,
            look_for_keys=key is None,
            allow_agent=key is None,
            timeout=seconds,
            banner_timeout=seconds,
            auth_timeout=seconds,
        )
    except paramiko.BadHostKeyException as error:
        client.close()
        raise UsageError(
            f"{where} has a different host key than the known one: {error}. If that is right, correct "
            "known_hosts or --ssh-host-key."
        ) from error
    except paramiko.AuthenticationException as error:
        client.close()
        raise UsageError(f"{where} refuses the login; give a key that it accepts with --ssh-key.") from error
    except paramiko.SSHException as error:
        client.close()
        if "not found in known_hosts" in str(error):
            raise UsageError(
                f"The host key of '{address.name}' is not known; log in once with ssh, or give it with "
                "--ssh-host-key."
            ) from error
        raise MachineryMissing(f"{where} does not complete the SSH negotiation: {error}.") from error
    except (OSError, EOFError) as error:
        client.close()
        raise MachineryMissing(
            f"{where} cannot be reached: {error or 'it closed the connection'}."
        ) from error
    return client


def _key(address: SshAddress, seconds: float) -> paramiko.PKey | None:
    """Return the private key to log in with, None if the user's ssh-agent and keys are to be tried.

    Raises:
        UsageError: the file is not a private key, or needs a pass phrase.
        MachineryMissing: the ssh-agent does not answer.
    """
    if address.private_key is not None:
        require_private_key(address.private_key)
        return paramiko.PKey.from_path(address.private_key)
    if not _agent_answers(min(seconds, _AGENT_SECONDS)):
        raise MachineryMissing(
            f"The ssh-agent at '{os.environ['SSH_AUTH_SOCK']}' does not answer within {_AGENT_SECONDS} s, so "
            f"there is no login to '{address.name}'; give the key with --ssh-key, or unset SSH_AUTH_SOCK."
        )
    return None


def _agent_answers(seconds: float) -> bool:
    """Ask the user's ssh-agent for its keys; True also without one.

    paramiko waits without a limit for an agent that takes a connection and does not answer.
    """
    path = os.environ.get("SSH_AUTH_SOCK")
    if not path:
        return True
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(seconds)
            agent.connect(path)
            agent.sendall(_REQUEST_IDENTITIES)
            return bool(agent.recv(1))
    except (TimeoutError, BlockingIOError):
        # Silent, or so many wait already that it takes no more.
        return False
    except OSError:
        # There is no agent, and paramiko does without.
        return True


def _load_host_keys(client: paramiko.SSHClient, address: SshAddress) -> None:
    if address.host_key:
        key = host_key(address.host_key)
        name = address.address if address.port == 22 else f"[{address.address}]:{address.port}"
        client.get_host_keys().add(name, key.get_name(), key)
        return
    for file in address.known_hosts:
        path = file.expanduser()
        if path.is_file():
            client.load_system_host_keys(str(path))
