"""Contract: what was not compared is no PASS, and what the disks of now do is no FAIL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.deadline import Deadline
from harness.qemu.qmp import Event
from harness.qemu.ram import GoldenImage, RamBlock
from harness.status import Status
from tests_functional.attach import restore

_LINE = "{name}    4 KiB  0x0000000000000000 0x{used:016x} 0x{total:016x} 0x00007f0000000000  rw\n"


class _Clone:
    """A restored guest."""

    def __init__(self, overlays: int, state: str, *events: str) -> None:
        self.overlays, self.state, self.qmp = overlays, state, self
        self.events = [Event(name, {}, 0.0) for name in events]

    def mark(self) -> int:
        return 0

    def events_since(self, _mark: int) -> list[Event]:
        return self.events

    def execute(self, _command: str) -> Any:
        return {"status": self.state}

    def alive(self) -> bool:
        return False


class _Snapshot:
    """A snapshot with a golden image."""

    def __init__(self, *blocks: RamBlock) -> None:
        self.golden = GoldenImage(Path("/golden"), blocks)


_RAM, _ROM = RamBlock("pc.ram", 8192, 4096), RamBlock("vga.rom", 4096, 8192)


@pytest.mark.parametrize(
    ("then", "now", "differing", "status", "named"),
    [
        ((_RAM, _ROM), (_RAM, _ROM), [], Status.PASS, ""),
        ((_RAM, _ROM), (_RAM,), [], Status.SKIP, "vga.rom"),
        ((_RAM, _ROM), (_RAM, RamBlock("vga.rom", 4096, 0)), [], Status.SKIP, "vga.rom"),
        ((_RAM, _ROM), (_RAM,), [4096], Status.FAIL, ""),
        ((), (_RAM,), [], Status.SKIP, "none has a page"),
    ],
)
def test_what_is_not_compared_is_no_pass(
    monkeypatch: pytest.MonkeyPatch, then: Any, now: Any, differing: list[int], status: Status, named: str
) -> None:
    """A block that is missing or has no address is named; a page that differs is a FAIL all the same."""
    monkeypatch.setattr(restore, "ramblocks", lambda _clone: now)
    monkeypatch.setattr(restore, "differing_pages", lambda *_arguments: iter(differing))
    snapshot: Any = _Snapshot(*then)
    check = restore._compare(_Clone(0, "running"), snapshot)  # type: ignore[arg-type]
    assert check.status is status
    assert named in check.reason


@pytest.mark.parametrize(
    ("overlays", "state", "events", "status"),
    [
        (0, "running", (), Status.PASS),
        (1, "running", (), Status.PASS),
        (0, "running", ("RESET",), Status.FAIL),
        (0, "paused", (), Status.FAIL),
        (1, "running", ("BLOCK_IO_ERROR",), Status.SKIP),
        (1, "io-error", ("STOP",), Status.SKIP),
    ],
)
def test_disks_of_now(overlays: int, state: str, events: tuple[str, ...], status: Status) -> None:
    """With a disk, a guest that does not go on says nothing about the snapshot."""
    clone: Any = _Clone(overlays, state, *events)
    check = restore._go_on(clone, "running", Deadline(5.0))
    assert check.status is status
    assert ("content of now" in check.reason) is (status is Status.SKIP)


def test_devices_that_are_not_in_the_command_line() -> None:
    """Names and full sizes are compared; the used length comes with the stream."""
    one, longer = (
        _LINE.format(name="pc.ram", used=4096, total=8192),
        _LINE.format(name="rom", used=1, total=4),
    )
    assert restore.differing_blocks(one + longer, _LINE.format(name="rom", used=2, total=4) + one) == ""
    assert "since: rom." in restore.differing_blocks(one + longer, one)
    assert "since: rom." in restore.differing_blocks(one, one + longer)
    assert "since: rom." in restore.differing_blocks(longer, longer.replace("04 0x", "05 0x"))
