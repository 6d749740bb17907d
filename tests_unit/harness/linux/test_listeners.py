"""Contract: a listening socket is found by its address alone, and no other is taken for it."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest

from harness.errors import SetupBroken
from harness.linux import listeners
from harness.linux.listeners import Endpoint, free_loopback_address, listeners_at, parse_listeners

# From Linux 6.18 on x86_64, without the columns behind "inode". 127.8.9.10:40001 and 0.0.0.0:40022 listen;
# the former has a connection from 127.8.9.11 (both of its ends are shown), and one in TIME_WAIT.
_TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   1: 0A09087F:9C41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 948285
   3: 00000000:9C56 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 948286
   7: 0B09087F:9C42 0A09087F:9C41 01 00000000:00000000 00:00000000 00000000     0        0 948288
   9: 0A09087F:9C41 0B09087F:9C42 01 00000000:00000000 00:00000000 00000000     0        0 948289
  20: 0C09087F:9C43 0A09087F:9C41 06 00000000:00000000 03:0000175B 00000000     0        0 0
"""


@pytest.fixture(name="table")
def _table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is read instead of /proc/net/tcp."""
    path = tmp_path / "tcp"
    monkeypatch.setattr(listeners, "_TABLE", path)
    return path


def test_only_listening_sockets_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections and sockets in TIME_WAIT do not; the address is in this machine's byte order."""
    monkeypatch.setattr("sys.byteorder", "little")
    assert parse_listeners(_TABLE) == {Endpoint("127.8.9.10", 40001), Endpoint("0.0.0.0", 40022)}
    monkeypatch.setattr("sys.byteorder", "big")
    assert Endpoint("10.9.8.127", 40001) in parse_listeners(_TABLE)


def test_the_kernels_own_table_is_understood() -> None:
    """A socket of ours is found where it listens; a connected one at the same address is not."""
    with (
        socket.create_server((free_loopback_address(), 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
    ):
        address, port = server.getsockname()
        assert listeners_at(address) == [Endpoint(address, port)]
        ours.getpeername()
    assert listeners_at(address) == []


def test_a_listener_at_another_address_is_not_found() -> None:
    """Neither at 127.0.0.1 nor at 0.0.0.0, though a connection to the latter would be accepted."""
    address = free_loopback_address()
    with socket.create_server(("127.0.0.1", 0)), socket.create_server(("0.0.0.0", 0)):
        assert listeners_at(address) == []


def test_an_address_with_a_listener_is_not_chosen(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next random one is."""
    table.write_text(_TABLE)
    first = int(ipaddress.IPv4Address("127.1.0.0"))
    chosen = iter([int(ipaddress.IPv4Address(text)) - first for text in ("127.8.9.10", "127.8.9.11")])
    monkeypatch.setattr("secrets.randbelow", lambda _count: next(chosen))
    monkeypatch.setattr("sys.byteorder", "little")
    assert free_loopback_address() == "127.8.9.11"


def test_a_machine_without_loopback_says_so(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documentation addresses stand for those of a loopback interface that is down."""
    table.write_text(_TABLE)
    monkeypatch.setattr(listeners, "_FIRST", int(ipaddress.IPv4Address("192.0.2.1")))
    monkeypatch.setattr(listeners, "_COUNT", 1)
    with pytest.raises(SetupBroken, match=r"cannot listen at 192\.0\.2\.1.*is its interface 'lo' up\?"):
        free_loopback_address()


def test_a_kernel_without_the_table_says_so(table: Path) -> None:
    """E.g. where /proc is not mounted."""
    with pytest.raises(SetupBroken, match=f"{table}, cannot be read: No such file"):
        listeners_at("127.0.0.1")
