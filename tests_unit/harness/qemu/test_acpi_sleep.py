"""Contract: a guest of each machine that has power management is suspended to RAM, and wakes up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.deadline import Deadline
from harness.errors import NotApplicable
from harness.qemu.acpi_sleep import suspend_to_ram
from harness.qemu.machine import Machine
from tests_functional.run_states.woken import wake_up
from tests_unit.support.real_machine import real_machine


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_guest_sleeps_and_wakes_up(tmp_path: Path, machine: str) -> None:
    """It sleeps until it is woken up, and that twice: a wake-up resets the power management."""
    with real_machine(tmp_path, machine=machine) as started:
        for _ in range(2):
            suspend_to_ram(started)
            started.wait_status(lambda status: status == "suspended", Deadline(30), "suspended")
            wake_up(started, Deadline(30))
        assert started.qmp.execute("query-status")["status"] == "running"


def test_machine_without_power_management() -> None:
    """Other devices of the same maker, and the same number of another maker, are none."""
    devices: list[dict[str, Any]] = [
        {"slot": 0, "function": 0, "id": {"vendor": 0x8086, "device": 0x1237}},
        {"slot": 1, "function": 3, "id": {"vendor": 0x8087, "device": 0x7113}},
    ]
    qmp = SimpleNamespace(execute=lambda _command: [{"bus": 0, "devices": devices}])
    with pytest.raises(NotApplicable, match="no power management"):
        suspend_to_ram(cast(Machine, SimpleNamespace(qmp=qmp)))
