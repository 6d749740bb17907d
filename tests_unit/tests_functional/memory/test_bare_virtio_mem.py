"""Contract: the host plugs exactly the pieces that it says, and a device that refuses is a broken set-up."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import NotApplicable, SetupBroken
from tests_functional.memory import bare_virtio_mem
from tests_functional.memory.bare_virtio_mem import BareVirtioMem
from tests_functional.memory.virtio_mem import _BEFORE, _PIECES, _SNAPSHOTS, _WRITTEN, VIRTIO_MEM_KINDS
from tests_unit.support.fake_virtio import FakeMemory, FakeVirtio
from tests_unit.support.scenario_values import stack

_PLACE = 64 << 10
_ADDRESS = 1 << 32
_MIB = 1 << 20


class _Device:
    """A virtio-mem device that notes requests, and answers all with one number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: int | None = 0) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self.memory = FakeMemory()
        self.fake = FakeVirtio(0x1058, features=2)
        self._answer = answer
        monkeypatch.setattr(bare_virtio_mem, "GuestMemory", self.memory.of)
        monkeypatch.setattr(bare_virtio_mem, "free_ram_at", lambda *_: _PLACE)
        monkeypatch.setattr(bare_virtio_mem, "_SECONDS", 0.05)
        self.driver = BareVirtioMem(self.fake.machine, _ADDRESS, 2 * _MIB)
        monkeypatch.setattr(self.driver._device, "notify", self._notified)

    def _notified(self) -> None:
        first, second = (
            struct.unpack("<QIHH", self.memory.read(_PLACE + 16 * number, 16)) for number in (0, 1)
        )
        self.asked.append(struct.unpack("<H6xQH6x", self.memory.read(first[0], first[1])))
        if self._answer is not None:
            self.memory.write(second[0], struct.pack("<H8x", self._answer))
            self.memory.write(_PLACE + 2 * 4096 + 2, struct.pack("<H", len(self.asked)))


def test_pieces_are_plugged_out_before_others_are_plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """So there never is more than QEMU has asked for; what stays is not touched."""
    device = _Device(monkeypatch)
    device.driver.plug(frozenset({1, 2}))
    device.driver.plug(frozenset({2, 4}))
    wanted = [(0, 1), (0, 2), (1, 1), (0, 4)]
    assert device.asked == [(kind, _ADDRESS + 16 * _MIB * piece, 8) for kind, piece in wanted]


@pytest.mark.parametrize(
    ("answer", "words"), [(1, "does not plug piece 3 in: it answers 1"), (None, "does not answer")]
)
def test_device_that_refuses(answer: int | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says no, or nothing."""
    with pytest.raises(SetupBroken, match=words):
        _Device(monkeypatch, answer).driver.plug(frozenset({3}))


def test_pieces_are_those_that_the_test_needs(tmp_path: Path) -> None:
    """As many as QEMU asks for, in several parts, and in each snapshot all that the writers fill."""
    for mib in {*_BEFORE, *(mib for mib, _ in _SNAPSHOTS)}:
        assert len(_PIECES[mib]) * bare_virtio_mem.PIECE_MIB == mib
    assert all(_PIECES[mib] >= _WRITTEN for mib, _ in _SNAPSHOTS)
    given = stack(tmp_path)
    bare = replace(given, image=replace(given.image, bare=True), coverage=0.5)
    kind = VIRTIO_MEM_KINDS["virtio-mem"]
    plan = kind.stack(bare).writer_plan("random", 1)
    assert (plan.address, plan.bytes) == (_ADDRESS + 96 * _MIB, 48 * _MIB)
    assert kind.stack(given).writer_plan("random", 1).address == 0
    with pytest.raises(NotApplicable, match="cannot use memory"):
        kind.stack(replace(bare, machine="microvm"))
