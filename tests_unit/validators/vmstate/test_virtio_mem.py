"""Contract: memory that a virtio-mem device has not plugged in is left out, and nothing else is."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UsageError
from harness.status import Status
from tests_unit.support.synthetic_stream import PAGE, Guest, Writer, write_golden
from validators.judge import check_file
from validators.verdict import Verdict
from validators.vmstate.memory_map import Sightings, best_map
from validators.vmstate.stream.index import SnapshotIndex
from validators.vmstate.stream.reader import read_index
from validators.vmstate.stream.source import open_source

_NAME = "0000:00:04.0"
_UNIT = 1 << 20
_UNITS = 4
_HUGE_UNIT = 4 << 20
_PLUGGED = (True, False, True, False)


@dataclass
class _Writer(Writer):
    """Writes a guest with a virtio-mem device of four units of 1 MiB, of which some are plugged in.

    Attributes:
        early: its state comes before the first page, as since QEMU 8.1.
        sent: the units that are in the stream.
        size: plugged bytes by the state, None for what the bitmap says.
    """

    early: bool = True
    sent: tuple[bool, ...] = _PLUGGED
    size: int | None = None

    def blocks(self) -> list[tuple[str, np.ndarray[Any, np.dtype[np.uint64]]]]:
        memory = np.zeros((_UNITS * _UNIT // PAGE, 512), np.uint64)
        memory[np.repeat(_PLUGGED, _UNIT // PAGE)] = 7
        return [*super().blocks(), (f"{_NAME}/mem1", memory)]

    def _records(self, blocks: list[tuple[str, Any]]) -> list[tuple[str, int, bytes]]:
        sent = np.repeat(self.sent, _UNIT // PAGE)
        return [
            record for record in super()._records(blocks) if record[0] != f"{_NAME}/mem1" or sent[record[1]]
        ]

    def stream(self) -> bytes:
        content = super().stream()
        marker = bytes([0x7E]) + struct.pack(">I", 2)
        # Before the first page where it is early state, else behind the last RAM section.
        at = (content.find(marker) if self.early else content.rfind(marker)) + len(marker)
        return content[:at] + self._state() + content[at:]

    def _state(self) -> bytes:
        bitmap = sum(plugged << number for number, plugged in enumerate(_PLUGGED))
        size = sum(_PLUGGED) * _UNIT if self.size is None else self.size
        body = struct.pack(">QQQI", 1 << 32, _UNITS * _UNIT, _UNIT, 0)
        if self.early:
            body += struct.pack(">QQ", size, bitmap)
        else:
            body += struct.pack(">QQQQ", _UNITS * _UNIT, size, size, bitmap)
        name = f"{_NAME}/virtio-mem{'-device-early' if self.early else ''}".encode()
        head = bytes([4]) + struct.pack(">I", 50) + bytes([len(name)]) + name + struct.pack(">II", 0, 1)
        return head + body + bytes([0x7E]) + struct.pack(">I", 50)


def _judge(tmp_path: Path, writer: Writer, golden: Path | None = None) -> Verdict:
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    return check_file(path, golden=golden)


def _failed(verdict: Verdict) -> set[str]:
    # The device is not described in the synthetic vmdesc, which is another check's business.
    return {check.name for check in verdict.checks if check.status is Status.FAIL} - {"vmdesc"}


@pytest.mark.parametrize("early", [True, False])
def test_what_is_not_plugged_in_may_be_left_out(tmp_path: Path, early: bool) -> None:
    """By the early state and by the device's own, and the golden image counts those pages as zero."""
    writer = _Writer(Guest(), early=early)
    verdict = _judge(tmp_path, writer, write_golden(tmp_path / "golden", writer))
    assert not _failed(verdict)
    missing, golden = verdict.check("page-missing"), verdict.check("golden")
    assert missing is not None and missing.facts[f"not plugged in: {_NAME}/mem1"] == 2 * _UNIT
    assert golden is not None and golden.facts["pages compared"] == 256 + 2 + _UNITS * _UNIT // PAGE


@pytest.mark.parametrize("early", [True, False])
def test_a_huge_device_of_which_little_is_plugged_in(tmp_path: Path, early: bool) -> None:
    """A plain stream may be far too short for all pages of a device of 256 GiB."""
    units = (256 << 30) // _HUGE_UNIT
    content = _Writer(Guest(), early=early).stream()
    name = f"{_NAME}/mem1".encode()
    listed = bytes([len(name)]) + name + struct.pack(">Q", _UNITS * _UNIT)
    added = units * _HUGE_UNIT - _UNITS * _UNIT
    ram_at = content.index(b"\6pc.ram") - 8
    (total,) = struct.unpack_from(">Q", content, ram_at)
    content = content[:ram_at] + struct.pack(">Q", total + added) + content[ram_at + 8 :]
    content = content.replace(listed, listed[:-8] + struct.pack(">Q", units * _HUGE_UNIT))
    # One unit of the state is as large as all four were, and the first one is plugged in.
    old = struct.pack(">QQQI", 1 << 32, _UNITS * _UNIT, _UNIT, 0)
    new = struct.pack(">QQQI", 1 << 32, units * _HUGE_UNIT, _HUGE_UNIT, 0)
    state = content.index(old)
    tail = len(old) + (16 if early else 32)
    bits = struct.pack(">Q", 1) + bytes((units - 1) // 64 * 8)
    plugged = struct.pack(">Q", _HUGE_UNIT)
    sizes = plugged if early else struct.pack(">Q", units * _HUGE_UNIT) + plugged * 2
    content = content[:state] + new + sizes + bits + content[state + tail :]
    path = tmp_path / "file"
    path.write_bytes(content)
    verdict = check_file(path)
    assert _failed(verdict) == {"page-missing"}
    missing = verdict.check("page-missing")
    # Of the unit that is plugged in, two of four MiB are in the stream.
    assert missing is not None
    assert missing.total == (_HUGE_UNIT // 2) // PAGE
    assert missing.facts[f"not plugged in: {_NAME}/mem1"] == (units - 1) * _HUGE_UNIT


def test_what_is_plugged_in_must_be_there(tmp_path: Path) -> None:
    """A plugged unit that is left out is missing, by the golden image too."""
    writer = _Writer(Guest(), sent=(True, False, False, False))
    verdict = _judge(tmp_path, writer, write_golden(tmp_path / "golden", writer))
    assert _failed(verdict) == {"page-missing", "golden"}
    missing = verdict.check("page-missing")
    assert missing is not None and missing.total == _UNIT // PAGE
    assert missing.violations[0].offset == 2 * _UNIT


def test_what_is_not_plugged_in_must_not_be_there(tmp_path: Path) -> None:
    """An unplugged unit in the stream would take memory of the host that restores it."""
    verdict = _judge(tmp_path, _Writer(Guest(), sent=(True, True, True, False)))
    assert _failed(verdict) == {"page-unplugged"}
    found = verdict.check("page-unplugged")
    assert found is not None and found.violations[0].offset == _UNIT


def test_what_is_not_plugged_in_must_be_zero_at_t0(tmp_path: Path) -> None:
    """Content where the file says that there is no memory is lost content."""
    writer = _Writer(Guest())
    golden = write_golden(tmp_path / "golden", writer)
    with (golden / "block-002.ram").open("r+b") as image:
        image.seek(_UNIT + 5)
        image.write(b"x")
    assert _failed(_judge(tmp_path, writer, golden)) == {"golden"}


def test_state_that_contradicts_itself_excuses_nothing(tmp_path: Path) -> None:
    """A bitmap that does not add up to the plugged size is no bitmap."""
    verdict = _judge(tmp_path, _Writer(Guest(), size=3 * _UNIT))
    assert _failed(verdict) == {"page-missing"}


def test_early_state_behind_pages_is_out_of_order(tmp_path: Path) -> None:
    """Early state must come before the first page, so that the loader knows what is plugged in."""
    writer = _Writer(Guest())
    content, state = writer.stream(), writer._state()
    moved = content.replace(state, b"")
    at = moved.find(bytes([0x7E]) + struct.pack(">I", 2), 8000) + 5
    (tmp_path / "moved").write_bytes(moved[:at] + state + moved[at:])
    assert "section-order" in _failed(check_file(tmp_path / "moved"))


def test_pipe_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe the state cannot be looked up, and pages that are missing may be unplugged."""
    path = tmp_path / "file"
    path.write_bytes(_Writer(Guest()).stream())
    with path.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(UsageError, match="virtio-mem"):
            check_file(Path("-"))


def _index(tmp_path: Path, writer: Writer) -> SnapshotIndex:
    path = tmp_path / "file"
    path.write_bytes(writer.stream())
    with open_source(path) as source:
        return read_index(source)


def test_memory_beside_the_machines_own_is_placed_by_its_pages(tmp_path: Path) -> None:
    """The machine's rule knows main RAM alone; what is plugged in lies where the agent's pages say."""
    index = _index(tmp_path, _Writer(Guest()))
    start = 1 << 32
    main, plugged = np.arange(100) * PAGE, np.arange(40) * PAGE
    swapped = 30 * PAGE
    gpa = np.concatenate([main, start + plugged, [start + 50 * PAGE]])
    block = np.repeat([0, 2], [100, 41])
    memory, disagreeing = best_map(index, Sightings(gpa, block, np.concatenate([main, plugged, [swapped]])))
    assert memory.rule == "i440fx"
    assert memory.place(start + 7 * PAGE) == (2, 7 * PAGE)
    assert memory.place(7 * PAGE) == (0, 7 * PAGE)
    assert disagreeing == 1
