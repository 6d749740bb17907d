"""Parse the description of a host, as for `--host`: this machine, a lab machine, or a VM."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError

LOCAL = "local"

_FORMS = (
    "'local', 'ssh://[user@]address[:port]', 'vm:NAME' (see 'snapproof hosts --list'), "
    "'vm:debian@VERSION' or "
    "'vm:/path/to/bzImage[,modules=FOLDER]'"
)
_SSH = re.compile(
    r"(?:(?P<user>[^@/\s:]+)@)?(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^@:/\[\]\s]+))(?::(?P<port>\d+))?/?"
)


@dataclass(frozen=True)
class SshAddress:
    """The address of a lab machine, and how to log in.

    Attributes:
        address: name or IP address.
        port: port of its SSH server.
        user: login name, empty for the current user's.
        private_key: key file, None for the keys that `ssh` would use: those of an ssh-agent and the usual
            files.
        host_key: the machine's public host key, empty to look it up in `known_hosts`.
        known_hosts: files with known host keys.
    """

    address: str
    port: int = 22
    user: str = ""
    private_key: Path | None = None
    host_key: str = ""
    known_hosts: tuple[Path, ...] = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))

    @property
    def name(self) -> str:
        """The address in the form that `--host` accepts."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port != 22 else ""
        return f"ssh://{user}{self.address}{port}"


@dataclass(frozen=True)
class VmSpec:
    """A VM to boot as a host.

    Attributes:
        name: its name in the catalogue, empty if a kernel is given.
        kernel: path of a Linux image, None if a name is given.
        modules: folder of the kernel's modules, None if everything needed is built in.
    """

    name: str = ""
    kernel: Path | None = None
    modules: Path | None = None


@dataclass(frozen=True)
class HostSpecText:
    """A host as given on the command line.

    Attributes:
        text: the value as given.
        ssh: set for a lab machine.
        vm: set for a VM. If neither is set the host is this machine.
    """

    text: str
    ssh: SshAddress | None = None
    vm: VmSpec | None = None

    @property
    def short(self) -> str:
        """The host's name in results: the value as given, or the file name of a kernel given by path."""
        return self.vm.kernel.name if self.vm and self.vm.kernel else self.text


def parse_host(text: str) -> HostSpecText:
    """Parse the description of a host, as for `--host`.

    Raises:
        UsageError: it has none of the allowed forms.
    """
    if text == LOCAL:
        return HostSpecText(text)
    scheme, colon, rest = text.partition(":")
    if scheme == "ssh" and rest.startswith("//"):
        return HostSpecText(text, ssh=_address(text, rest[2:]))
    if scheme == "vm" and colon:
        return HostSpecText(text, vm=_vm(text, rest))
    raise UsageError(f"'{text}' is not a host; give {_FORMS}.")


def _address(text: str, rest: str) -> SshAddress:
    match = _SSH.fullmatch(rest)
    if match is None:
        raise UsageError(f"'{text}' is not the SSH address of a host; give one like 'ssh://user@address:22'.")
    port = int(match["port"] or 22)
    if not 0 < port < 1 << 16:
        raise UsageError(f"The host '{text}' has the port {port}; a port is a number from 1 to 65535.")
    return SshAddress(match["six"] or match["name"], port, match["user"] or "")


def _path(text: str, path: str) -> Path:
    """Return a path with its `~` replaced, which no shell does behind `vm:` or `modules=`."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"The host '{text}' has a path in the home folder of somebody who is not known here; "
            "give the path without '~'."
        ) from error


def _vm(text: str, rest: str) -> VmSpec:
    first, *options = rest.split(",")
    if not first:
        raise UsageError(f"The host '{text}' names no VM; give {_FORMS}.")
    modules = None
    for option in options:
        key, _, value = option.partition("=")
        if key != "modules" or not value:
            raise UsageError(f"The host '{text}' has the unknown option '{option}'; use 'modules=FOLDER'.")
        modules = _path(text, value)
    if "/" in first:
        return VmSpec(kernel=_path(text, first), modules=modules)
    if modules is not None:
        raise UsageError(
            f"The host '{text}' gives modules for a VM of the catalogue, which has its own; leave them out."
        )
    return VmSpec(first)
