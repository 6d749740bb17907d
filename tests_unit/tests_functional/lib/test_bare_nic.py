"""Contract: a packet counts when the card has written it to guest RAM, and a silent card is seen."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.guest.shell import GuestUnreachable
from harness.linux.listeners import Endpoint
from tests_functional.lib import bare_nic
from tests_functional.lib.bare_nic import BareNic
from tests_unit.support.fake_virtio import FakeMemory, FakeVirtio
from tests_unit.support.scenario_values import stack

_CARD = 0x1041
_PLACE = 64 << 10


@pytest.fixture(name="memory")
def _memory(monkeypatch: pytest.MonkeyPatch) -> FakeMemory:
    """Guest RAM of 1 MiB, with the card's queue in its last 64 KiB."""
    memory = FakeMemory()
    monkeypatch.setattr(bare_nic, "GuestMemory", memory.of)
    monkeypatch.setattr(bare_nic, "free_ram_at", lambda *_: _PLACE)
    return memory


def _card(alive: bool = True) -> tuple[FakeVirtio, BareNic]:
    fake = FakeVirtio(_CARD)
    machine: Any = fake.machine
    machine.alive = lambda: alive
    machine.ssh = Endpoint("127.0.0.1", 1)
    return fake, BareNic(machine)


def _use(memory: FakeMemory, count: int) -> None:
    memory.write(_PLACE + 2 * 4096 + 2, struct.pack("<H", count))


def test_card_has_a_page_for_each_packet(memory: FakeMemory) -> None:
    """It is told of all of them, and none of it lies outside the end of RAM."""
    fake, nic = _card()
    nic.start()
    table = [struct.unpack("<QIHH", memory.read(_PLACE + 16 * number, 16)) for number in range(64)]
    assert [row[0] for row in table] == [_PLACE + (3 + number) * 4096 for number in range(64)]
    assert {row[1:3] for row in table} == {(2048, 2)}
    assert memory.read(_PLACE + 4096 + 2, 2) == b"\x40\0"
    assert fake.notified == 1
    assert nic.received() == 0


def test_card_that_writes_is_seen_and_offered_more(
    memory: FakeMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that was used is offered again, unless a snapshot protects the ring."""
    _fake, nic = _card()
    nic.start()
    sent = iter(range(1, 10))

    def connect(*_arguments: Any) -> Any:
        _use(memory, next(sent))
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(socket, "create_connection", connect)
    nic.poke()
    assert nic.received() == 1
    nic.wait_received(Deadline(5))
    assert nic.received() == 2
    monkeypatch.setattr(socket, "create_connection", _refuse)
    nic.poke()
    assert memory.read(_PLACE + 4096 + 2, 2) == b"\x42\0"
    _use(memory, 5)
    memory.protected.add((_PLACE + 4096) // 4096)
    nic.poke()
    assert memory.read(_PLACE + 4096 + 2, 2) == b"\x42\0"


def _refuse(*_arguments: Any) -> None:
    raise ConnectionRefusedError


@pytest.mark.usefixtures("memory")
def test_silent_card_is_an_unreachable_guest() -> None:
    """Within the limit, or at once if QEMU has ended."""
    _fake, nic = _card()
    nic.start()
    with pytest.raises(GuestUnreachable, match=r"wrote no packet to guest RAM within 0 s\."):
        nic.wait_received(Deadline(0.1))
    with pytest.raises(GuestUnreachable):
        _card(alive=False)[1].wait_received(Deadline(60))


def test_who_gets_a_card(tmp_path: Path) -> None:
    """A bare guest where the host can drive it; one with an operating system has its own."""
    linux = stack(tmp_path)
    bare = replace(linux, image=replace(linux.image, bare=True))
    assert linux.with_nic() == linux
    assert bare.with_nic() == replace(bare, nic=True)
    other = replace(bare, machine="microvm")
    assert other.with_nic() == other
    assert (linux.machine_config().virtio, bare.machine_config().virtio) == (True, False)
    assert bare.with_nic().machine_config().virtio
