"""Contract: a ROM says which mode is set, and one that is no QXL ROM says nothing."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.errors import NotApplicable, SetupBroken
from harness.qemu.machine import Machine
from harness.qemu.ram import RamBlock
from tests_functional.ram_blocks import device_rom
from tests_functional.ram_blocks.device_rom import mode_in
from tests_unit.support.scenario_values import make_run

_NAME = "0000:00:04.0/qxl.vrom"


def _rom(mode: int) -> bytes:
    return b"QXRO" + struct.pack("<5I", 1, 2, 3, 4, mode) + bytes(4096)


def test_mode_is_the_sixth_word() -> None:
    """It is of 32 bits."""
    assert mode_in(_rom(0x10005)) == 0x10005


def test_memory_that_is_no_rom_of_qxl() -> None:
    """The set-up is wrong then."""
    with pytest.raises(SetupBroken, match="begins with b'QXRA'"):
        mode_in(_rom(5).replace(b"QXRO", b"QXRA"))


@pytest.mark.parametrize("found", [2, 5])
def test_mode_that_the_device_does_not_set(monkeypatch: pytest.MonkeyPatch, found: int) -> None:
    """A write that has no effect proves nothing of what a file has of it."""
    written: list[Any] = []
    monkeypatch.setattr(device_rom, "write_port", lambda _machine, *what: written.append(what))
    monkeypatch.setattr(device_rom, "read_block", lambda *_: [_rom(found)])
    if found == 5:
        device_rom._set_mode(cast(Machine, None), RamBlock(_NAME, 8192, 1), 5)
    else:
        with pytest.raises(SetupBroken, match="told to set mode 5, and its ROM says 2"):
            device_rom._set_mode(cast(Machine, None), RamBlock(_NAME, 8192, 1), 5)
    assert written == [(0xC206, 1, 5)]


@pytest.mark.parametrize("block", [RamBlock(_NAME, 8192, 0), RamBlock("pc.rom", 8192, 7)])
def test_rom_whose_place_is_not_known(monkeypatch: pytest.MonkeyPatch, block: RamBlock) -> None:
    """It cannot be looked at."""
    monkeypatch.setattr(device_rom, "ramblocks", lambda _machine: (block,))
    with pytest.raises(SetupBroken, match="does not say where it keeps the ROM"):
        device_rom._find_rom(cast(Machine, SimpleNamespace()))


def test_rom_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of the device's slot."""
    blocks = (RamBlock("pc.rom", 4096, 3), RamBlock(_NAME, 8192, 7))
    monkeypatch.setattr(device_rom, "ramblocks", lambda _machine: blocks)
    assert device_rom._find_rom(cast(Machine, None)) is blocks[1]


@pytest.mark.parametrize(
    ("own", "other", "fetched"), [(True, True, False), (False, True, True), (False, False, True)]
)
def test_qemu_without_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool, other: bool, fetched: bool
) -> None:
    """One with a package of modules takes its place, if that has the device."""
    found = {Path("own"): own, Path("other"): other}
    asked: list[Path] = []

    def provision(executable: Path, package: str, _provisioning: object) -> Path:
        assert package == "qemu-system-modules-spice"
        asked.append(executable)
        return Path("other")

    monkeypatch.setattr(device_rom, "has_device", lambda executable, _name: found[executable])
    monkeypatch.setattr(device_rom, "provision_with_module", provision)
    run = make_run(tmp_path)
    run = replace(run, stack=replace(run.stack, executable=Path("own")))
    if not own and not other:
        with pytest.raises(NotApplicable, match="has no device 'qxl', and none with"):
            device_rom._with_device(run)
    else:
        assert device_rom._with_device(run).stack.executable == Path("own" if own else "other")
    assert asked == ([Path("own")] if fetched else [])
