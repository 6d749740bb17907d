"""Opens the way into the guest of a VM that is attached: by its QEMU guest agent, or by SSH."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from guest_images.agent.build import compile_agent, plan_agent
from guest_images.provisioning import Provisioning
from harness.attach.virsh import Domain
from harness.deadline import Deadline
from harness.errors import MachineryMissing, UsageError
from harness.guest.guest_agent import PING_SECONDS, GuestAgent, GuestAgentShell, SocketChannel, VirshChannel
from harness.guest.shell import GuestShell
from harness.linux.listeners import Endpoint
from harness.qemu.architectures import find_architecture
from snapproof.runs.stack import cache_at
from tests_functional.attach.guest_writers import GuestWay

_SSH_SECONDS = 30.0
_SSH_PORT = 22


def require_usable(arguments: argparse.Namespace) -> None:
    """Check the options of the ways to the VM and into its guest.

    Raises:
        UsageError: they do not fit together.
    """
    if arguments.through_libvirt and arguments.libvirt is None:
        raise UsageError("--through-libvirt is for a domain of libvirt; name it by --libvirt.")
    if arguments.guest_agent is not None and arguments.ssh is not None:
        raise UsageError("--guest-agent and --ssh are two ways into the guest; give one of them.")
    if arguments.guest_agent == "" and arguments.libvirt is None:
        raise UsageError("With --qmp, --guest-agent takes the socket of the guest agent's chardev.")
    if (arguments.ssh is None) != (arguments.ssh_key is None):
        raise UsageError("--ssh and --ssh-key belong together: where to log in, and the private key for it.")


def guest_way(
    arguments: argparse.Namespace, way: Path | Domain, say: Callable[[str], None]
) -> AbstractContextManager[GuestWay | None]:
    """Return the way into the guest that the options name, to be entered; None where they name none."""
    if arguments.guest_agent is None and arguments.ssh is None:
        return nullcontext()
    return _opened(arguments, way, say)


@contextmanager
def _opened(
    arguments: argparse.Namespace, way: Path | Domain, say: Callable[[str], None]
) -> Iterator[GuestWay]:
    provisioning = Provisioning(cache_at(arguments.cache), say)

    def program(machine: str) -> Path:
        return compile_agent(
            plan_agent(provisioning.cache, architecture=find_architecture(machine)), provisioning
        )

    opened = _ssh_shell(arguments) if arguments.ssh else _agent_shell(arguments.guest_agent, way)
    with opened as shell:
        yield GuestWay(shell, program, "SSH" if arguments.ssh else "the QEMU guest agent")


@contextmanager
def _agent_shell(path: str, way: Path | Domain) -> Iterator[GuestShell]:
    if not path and isinstance(way, Domain):
        yield _answering(GuestAgent(VirshChannel(way)))
        return
    channel = SocketChannel.at(Path(path))
    try:
        yield _answering(GuestAgent(channel))
    finally:
        channel.close()


def _answering(agent: GuestAgent) -> GuestShell:
    if not agent.answers():
        raise MachineryMissing(
            f"The QEMU guest agent does not answer within {PING_SECONDS:g} s: is the package "
            "qemu-guest-agent installed in the guest, does its service run, and has the VM the virtio-serial "
            "port 'org.qemu.guest_agent.0'? Do without it, or use --ssh."
        )
    return GuestAgentShell(agent)


@contextmanager
def _ssh_shell(arguments: argparse.Namespace) -> Iterator[GuestShell]:
    # It takes 0.3 s to import.
    from harness.guest.identity import SshIdentity
    from harness.guest.ssh import SshShell, host_key, require_private_key

    require_private_key(arguments.ssh_key)
    pinned = arguments.ssh_host_key or ""
    if pinned:
        host_key(pinned)
    identity = SshIdentity(arguments.ssh_user, arguments.ssh_key, " ".join(pinned.split()[:2]))
    with SshShell(endpoint(arguments.ssh), identity) as shell:
        shell.connect(Deadline(_SSH_SECONDS))
        yield shell


def endpoint(text: str) -> Endpoint:
    """Return where to log in: `HOST` or `HOST:PORT`, with an IPv6 address in brackets.

    Raises:
        UsageError: the port is no number.
    """
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(_SSH_PORT)
    if not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"'--ssh {text}' has no port after its colon; give HOST or HOST:PORT.")
    return Endpoint(host.strip("[]"), int(port))
