"""Find the TCP ports that programs listen on, and loopback addresses that nobody listens at."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from harness.errors import SetupBroken

# Linux Documentation/networking/proc_net_tcp.rst; IPv4 only, of the reader's network namespace.
_TABLE = Path("/proc/net/tcp")
# Linux include/net/tcp_states.h: TCP_LISTEN.
_LISTEN = 0x0A
# 127.1.0.0 to 127.254.255.255. Resolvers and such listen at addresses in 127.0.0.0/16.
_FIRST = int(ipaddress.IPv4Address("127.1.0.0"))
_COUNT = 254 << 16


class Endpoint(NamedTuple):
    """An IPv4 address and a TCP port."""

    address: str
    port: int


def parse_listeners(text: str) -> set[Endpoint]:
    """Return the endpoints of the listening sockets in the text of /proc/net/tcp."""
    found = set()
    for line in text.splitlines()[1:]:
        _slot, local, _remote, state = line.split()[:4]
        if int(state, 16) == _LISTEN:
            address, port = local.split(":")
            # The kernel prints the address, which is in network byte order, as a number of this machine; the
            # port is converted.
            packed = int(address, 16).to_bytes(4, sys.byteorder)
            found.add(Endpoint(socket.inet_ntop(socket.AF_INET, packed), int(port, 16)))
    return found


def listeners_at(address: str) -> list[Endpoint]:
    """Return the listening sockets at exactly this IPv4 address, sorted; those at 0.0.0.0 do not count.

    Raises:
        SetupBroken: the kernel's table cannot be read.
    """
    return sorted(found for found in _listeners() if found.address == address)


def free_loopback_address() -> str:
    """Return a random address of this machine's loopback network that nobody listens at.

    Raises:
        SetupBroken: programs of this machine cannot listen at such addresses.
    """
    taken = {found.address for found in _listeners()}
    while (address := str(ipaddress.IPv4Address(_FIRST + secrets.randbelow(_COUNT)))) in taken:
        pass
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise SetupBroken(
                f"This machine cannot listen at {address}, which is of its own loopback network "
                f"({error.strerror}); is its interface 'lo' up?"
            ) from error
    return address


def _listeners() -> set[Endpoint]:
    try:
        return parse_listeners(_TABLE.read_text(encoding="ascii"))
    except OSError as error:
        raise SetupBroken(f"The table of TCP sockets, {_TABLE}, cannot be read: {error.strerror}.") from error
