"""Contract: the stuns of the main job are compared where RAM, and not devices, takes the time of a save."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.qemu.architectures import PPC64
from tests_functional.snapshot.main_job import with_ram_for_stuns
from tests_unit.support.scenario_values import stack


def test_machine_with_much_device_state_gets_more_ram(tmp_path: Path) -> None:
    """A machine type says what it needs; more stays, and one that is not known is left alone."""
    usual = stack(tmp_path)
    assert with_ram_for_stuns(usual) == usual
    slow = replace(usual, image=replace(usual.image, architecture=PPC64), machine="pseries-7.2,x-vof=on")
    assert with_ram_for_stuns(slow) == replace(slow, ram_mib=1024)
    assert with_ram_for_stuns(replace(slow, ram_mib=4096)).ram_mib == 4096
    unknown = replace(slow, machine="powernv")
    assert with_ram_for_stuns(unknown) == unknown
