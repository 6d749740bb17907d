"""What `--host` takes: this machine, a lab machine, or a VM with a kernel of any kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.hosts.ssh import SshAddress

LOCAL = "local"

_FORMS = (
    "'local', 'ssh://[user@]address[:port]', 'vm:NAME' of 'snapproof hosts --list' or "
    "'vm:/path/to/bzImage[,modules=FOLDER]'"
)
_SSH = re.compile(
    r"(?:(?P<user>[^@/\s:]+)@)?(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^@:/\[\]\s]+))(?::(?P<port>\d+))?/?"
)


@dataclass(frozen=True)
class VmSpec:
    """A VM to be booted for the purpose.

    Attributes:
        name: of the catalogue, empty where a kernel is given.
        kernel: path of a Linux image.
        modules: folder of its modules, None where all that is needed is built in.
    """

    name: str = ""
    kernel: Path | None = None
    modules: Path | None = None


@dataclass(frozen=True)
class HostSpecText:
    """A host as it was asked for.

    Attributes:
        text: what was given.
        ssh: set for a lab machine.
        vm: set for a VM; with neither it is this machine.
    """

    text: str
    ssh: SshAddress | None = None
    vm: VmSpec | None = None

    @property
    def short(self) -> str:
        """What results call it by: a kernel by the name of its file."""
        return self.vm.kernel.name if self.vm and self.vm.kernel else self.text


def parse_host(text: str) -> HostSpecText:
    """Read what `--host` was given.

    Raises:
        UsageError: it is none of the forms.
    """
    if text == LOCAL:
        return HostSpecText(text)
    scheme, colon, rest = text.partition(":")
    if scheme == "ssh" and rest.startswith("//"):
        return HostSpecText(text, ssh=_address(text, rest[2:]))
    if scheme == "vm" and colon:
        return HostSpecText(text, vm=_vm(text, rest))
    raise UsageError(f"'{text}' is not a host; a host is {_FORMS}.")


def _address(text: str, rest: str) -> SshAddress:
    match = _SSH.fullmatch(rest)
    if match is None:
        raise UsageError(f"'{text}' is not the address of a host; it should be like 'ssh://user@address:22'.")
    port = int(match["port"] or 22)
    if not 0 < port < 1 << 16:
        raise UsageError(f"'{text}' has the port {port}; ports go from 1 to 65535.")
    return SshAddress(match["six"] or match["name"], port, match["user"] or "")


def _vm(text: str, rest: str) -> VmSpec:
    first, *options = rest.split(",")
    if not first:
        raise UsageError(f"'{text}' names no VM; a host is {_FORMS}.")
    modules = None
    for option in options:
        key, _, value = option.partition("=")
        if key != "modules" or not value:
            raise UsageError(f"'{text}' has the option '{option}'; the only one is 'modules=FOLDER'.")
        modules = Path(value)
    if "/" in first:
        return VmSpec(kernel=Path(first), modules=modules)
    if modules is not None:
        raise UsageError(f"'{text}' names modules for a VM of the catalogue, which has its own.")
    return VmSpec(first)
