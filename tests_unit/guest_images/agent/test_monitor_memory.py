"""A guest is steered, saved, judged and restored through QMP alone, without QEMU's own memory."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from guest_images.agent.bare_agent import BareAgent
from guest_images.agent.client import WriterPlan
from guest_images.cache import Cache, default_cache_folder
from guest_images.catalogue import DEFAULT_QEMU
from guest_images.guests.image import build_guest
from guest_images.provisioning import Provisioning
from harness.deadline import Deadline
from harness.errors import MachineryMissing, SetupBroken
from harness.qemu import guest_memory, monitor_memory
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine
from harness.qemu.monitor_memory import MonitorMemory
from harness.qemu.spawned_machine import SpawnedMachine
from harness.status import Status
from tests_functional.lib.guest import Stack
from validators.judge import check_file

pytestmark = pytest.mark.vm

RAM_MIB = 32
_CONTROL_PAGE = 0x100000


@pytest.fixture(name="stack")
def _stack(tmp_path: Path) -> Stack:
    try:
        image = build_guest("bare", Provisioning(Cache(tmp_path / "cache"), lambda _: None))
    except MachineryMissing as error:
        pytest.skip(error.sentence)
    program = image.architecture.qemu
    found = shutil.which(program) or next(
        iter(sorted(default_cache_folder().glob(f"trees/{DEFAULT_QEMU}-qemu*/{program}"))), None
    )
    if not found:
        pytest.skip(f"there is no {program}; 'snapproof run' fetches one")
    return Stack(Path(found), image, accel="tcg", ram_mib=RAM_MIB, machine="pc")


def _migrated(machine: Machine) -> str:
    limit = Deadline(30)
    while (status := str(machine.query_migrate().get("status"))) not in ("completed", "failed"):
        assert not limit.expired
        time.sleep(0.02)
    return status


def test_whole_cycle(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers are started, saved live, judged in the file, found right in the restored guest, and go on."""
    monkeypatch.setattr(guest_memory, "known_pid", lambda _machine: pytest.fail("QEMU's memory was used"))
    file = tmp_path / "vmstate"
    with SpawnedMachine(stack.machine_config(), tmp_path / "source") as machine:
        agent = BareAgent(machine, _CONTROL_PAGE, MonitorMemory(machine))
        agent.wait_booted(Deadline(20))
        agent.serve(WriterPlan(16 * MIB, 1, "random", 7), RAM_MIB * MIB, Deadline(20))
        agent.start()
        Deadline(60).wait_for(lambda: agent.status().steps[0] > 4096, "The first pass")
        capability = {"capability": "background-snapshot", "state": True}
        machine.qmp.execute("migrate-set-capabilities", {"capabilities": [capability]})
        machine.qmp.execute("migrate", {"uri": f"exec:cat > {file}"})
        assert _migrated(machine) == "completed"
        source = agent.status()
        assert source.errors == 0
        machine.quit()
    verdict = check_file(file)
    assert verdict.status is Status.PASS, verdict.violations
    with SpawnedMachine(stack.machine_config(), tmp_path / "restored", incoming=True) as machine:
        machine.qmp.execute("migrate-incoming", {"uri": f"exec:cat {file}"})
        machine.wait_status(lambda status: status == "running", Deadline(30), "running")
        agent = BareAgent(machine, _CONTROL_PAGE, MonitorMemory(machine))
        agent.wait_answer(Deadline(20))
        agent.pause()
        assert agent.verify().mismatch_count == 0
        before = agent.status()
        assert (before.nonce, before.boot_id, before.errors) == (source.nonce, source.boot_id, 0)
        agent.corrupt(0, 3)
        assert [found["index"] for found in agent.verify().mismatches] == [3]
        agent.resume()
        Deadline(20).wait_for(lambda: agent.status().steps[0] > before.steps[0], "More steps")
        machine.quit()


def test_paused_guest_stays_paused(stack: Stack, tmp_path: Path) -> None:
    """A debugger that goes away lets a guest run; this one does not. What is no RAM is said."""
    with SpawnedMachine(stack.machine_config(), tmp_path / "machine") as machine:
        memory = MonitorMemory(machine)
        machine.qmp.execute("stop")
        data = bytes(range(256)) * 5
        memory.write(0x800000, data)
        assert memory.read(0x800000, len(data)) == data
        assert machine.qmp.execute("query-status")["status"] == "paused"
        machine.qmp.execute("cont")
        memory.write(0x800000, b"x")
        assert machine.qmp.execute("query-status")["status"] == "running"
        with pytest.raises(SetupBroken, match="does not print 8 bytes at 0x80000000"):
            memory.read(0x80000000, 8)
        machine.quit()


def test_memory_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stack: Stack) -> None:
    """QEMU's own memory is used where it may be opened, and the monitor elsewhere."""
    with SpawnedMachine(stack.machine_config(), tmp_path / "machine") as machine:
        assert isinstance(monitor_memory.physical_memory(machine), guest_memory.GuestMemory)

        def refuse(*_args: object) -> None:
            raise PermissionError

        monkeypatch.setattr(Path, "open", refuse)
        found = monitor_memory.physical_memory(machine)
        monkeypatch.undo()
        assert isinstance(found, MonitorMemory)
        machine.quit()
