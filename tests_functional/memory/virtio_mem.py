"""Takes snapshots of a guest with a virtio-mem device, and plugs parts of it in and out in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, NotApplicable, SetupBroken
from harness.qemu import migration
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine
from harness.qemu.probe import has_device
from harness.qemu.ram import RamBlock, populated_bytes, ramblocks
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, snapshot_cycle, writing_guest
from tests_functional.lib.guest import Guest, Stack
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.memory.bare_virtio_mem import PIECE_MIB, BareVirtioMem
from tests_functional.memory.plugged import (
    PLUGGED_AT,
    memory_mib,
    prepare_guest,
    reaches_plugged,
    require_in_use,
    wait_memory,
)
from validators.checks import Problem, judged
from validators.verdict import CheckResult, Verdict

_REGION_MIB = 256
_MODEL = "virtio-mem-pci"
_RESIZE_SECONDS = 30.0
_DEVICE = "/machine/peripheral/vm0"
_DRIVER = "/sys/bus/virtio/drivers/virtio_mem"
_PLUGGED = "The file leaves out as much memory as the device has not plugged in."
_UNTOUCHED = "No save takes host memory for what is not plugged in."

# MiB plugged in before the writers start, one after another: the plugged parts are no longer in one piece.
_BEFORE = (96, 192, 64, 160)
# With what is plugged in each snapshot is taken. The first is live: a golden image reads all of RAM, which
# by itself takes host memory for it. What is plugged after the writers have started is free memory of the
# guest, and is what its kernel gives back first.
_SNAPSHOTS = ((160, Flow.LIVE), (256, Flow.STOP_MIGRATE_CONT), (192, Flow.STOP_MIGRATE_CONT))


# In a bare guest the host says which pieces are plugged in, and leaves those alone that the writers fill.
_WRITTEN = frozenset(range(6, 12))
_PIECES = {
    64: frozenset(range(1, 5)),
    96: frozenset(range(1, 7)),
    160: frozenset(range(1, 5)) | _WRITTEN,
    192: frozenset(range(16)) - frozenset(range(1, 5)),
    256: frozenset(range(16)),
}


@dataclass(frozen=True)
class VirtioMemKind:
    """A virtio-mem device.

    Attributes:
        reason: why it is tested.
        backend: `-object` arguments of its memory, without id and size.
    """

    reason: str
    backend: str

    def stack(self, stack: Stack) -> Stack:
        """Return the stack with the device; the snapshot itself says how much of it is plugged in."""
        # fmt: off
        arguments = (
            "-m", "maxmem=1G",
            "-object", f"{self.backend},id=mem1,size={_REGION_MIB}M",
            "-device", f"{_MODEL},id=vm0,memdev=mem1,requested-size=0",
        )
        # fmt: on
        if not stack.image.bare:
            return replace(stack, extra=arguments, plugged_mib=_BEFORE[-1])
        if not reaches_plugged(stack):
            raise NotApplicable("The agent of this bare guest cannot use memory that is plugged in.")
        written_mib = len(_WRITTEN) * PIECE_MIB
        at = PLUGGED_AT + min(_WRITTEN) * PIECE_MIB * MIB
        return replace(stack, extra=arguments, plugged_mib=written_mib, plugged_at=at)


VIRTIO_MEM_KINDS: Mapping[str, VirtioMemKind] = {
    "virtio-mem": VirtioMemKind(
        "memory that is not plugged in is not part of the snapshot, and the save must not touch it",
        "memory-backend-ram",
    ),
    "virtio-mem-memfd": VirtioMemKind(
        "on shmem, reading memory that is not plugged in allocates it on the host (QEMU before 6.2 did)",
        "memory-backend-memfd,share=on",
    ),
}


def virtio_mem_kind(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario for one of VIRTIO_MEM_KINDS."""
    return lambda run: _resized(run, name, VIRTIO_MEM_KINDS[name])


def _resized(run: Run, name: str, kind: VirtioMemKind) -> Outcome:
    begun = time.monotonic()
    if not has_device(run.stack.executable, _MODEL):
        raise NotApplicable(f"This QEMU was built without the device '{_MODEL}'.")
    run = replace(run, stack=kind.stack(run.stack))
    cycles: list[Cycle] = []
    driver = _BareDriver() if run.stack.image.bare else _LinuxDriver()
    with writing_guest(run, driver.prepare) as source:
        require_in_use(run.stack, source)
        for mib, flow in _SNAPSHOTS:
            if mib != _plugged(source.guest.machine) // MIB:
                driver.resize(source.guest, mib)
            label = f"{len(cycles) + 1:02d}-{flow.label}-{mib}-mib"
            cycles.append(_cycle(run, source, flow, label, name))
        source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun)


class _LinuxDriver:
    """The driver of the guest's kernel, which follows what QEMU requests."""

    def prepare(self, guest: Guest) -> None:
        """Have the guest use memory that is plugged in, and plug it in and out.

        Raises:
            NotApplicable: the guest's kernel has no such driver. SetupBroken: the guest does not follow.
        """
        migration.require_known(guest.machine, migration.BACKGROUND_SNAPSHOT)
        prepare_guest(guest)
        if guest.shell.run(f"test -d {_DRIVER}").exit_code:
            raise NotApplicable(f"The guest's kernel has no driver for virtio-mem: it has no {_DRIVER}.")
        for mib in _BEFORE:
            self.resize(guest, mib)

    def resize(self, guest: Guest, mib: int) -> None:
        """Plug memory in or out until the device has `mib` MiB, and the guest's kernel uses them.

        Raises:
            SetupBroken: the guest does not follow.
        """
        machine = guest.machine
        wanted = memory_mib(guest) + mib - _plugged(machine) // MIB
        _request(machine, mib)
        _wait_plugged(machine, mib)
        wait_memory(guest, wanted)


class _BareDriver:
    """The host in the place of a driver, since a bare guest has none."""

    def __init__(self) -> None:
        self._driver: BareVirtioMem | None = None

    def prepare(self, guest: Guest) -> None:
        """Set the device up, and plug memory in and out.

        Raises:
            SetupBroken: the device does not accept that.
        """
        migration.require_known(guest.machine, migration.BACKGROUND_SNAPSHOT)
        device = _device(guest.machine)
        self._driver = BareVirtioMem(guest.machine, int(device["memaddr"]), int(device["block-size"]))
        for mib in _BEFORE:
            self.resize(guest, mib)

    def resize(self, guest: Guest, mib: int) -> None:
        """Plug memory in or out until the device has `mib` MiB.

        Raises:
            SetupBroken: the device does not accept that.
        """
        assert self._driver, "the guest was prepared first"
        _request(guest.machine, mib)
        self._driver.plug(_PIECES[mib])
        _wait_plugged(guest.machine, mib)


def _request(machine: Machine, mib: int) -> None:
    machine.qmp.execute("qom-set", {"path": _DEVICE, "property": "requested-size", "value": mib * MIB})


def _wait_plugged(machine: Machine, mib: int) -> None:
    """Wait until the device has `mib` MiB plugged in.

    Raises:
        SetupBroken: it does not in time.
    """
    try:
        Deadline(_RESIZE_SECONDS).wait_for(
            lambda: _plugged(machine) == mib * MIB, "The guest's plugging", interval=0.05
        )
    except DeadlineExpired as error:
        raise SetupBroken(
            f"The guest was asked to plug in {mib} MiB of virtio-mem and has {_plugged(machine) // MIB} MiB."
        ) from error


def _device(machine: Machine) -> dict[str, Any]:
    devices = machine.qmp.execute("query-memory-devices")
    return next(dict(device["data"]) for device in devices if device["type"] == "virtio-mem")


def _plugged(machine: Machine) -> int:
    """Return the number of bytes that are plugged in."""
    return int(_device(machine)["size"])


def _block(machine: Machine) -> RamBlock:
    """Return the device's RAMBlock.

    Raises:
        SetupBroken: its place in QEMU's memory is not known.
    """
    for block in ramblocks(machine):
        if block.idstr.endswith("/mem1") and block.host_address:
            return block
    raise SetupBroken("QEMU does not say where the memory of the virtio-mem device lies.")


def _cycle(run: Run, source: Source, flow: Flow, label: str, name: str) -> Cycle:
    """Take one snapshot; judge also which memory of the device it holds and how much it takes of the host."""
    machine = source.guest.machine
    block, plugged = _block(machine), _plugged(machine)
    before = populated_bytes(machine, block)
    cycle = snapshot_cycle(run, source, flow, label)
    checks = [_judge_left_out(cycle.verdict, name, block, plugged)]
    if not flow.golden:
        checks.append(_judge_untouched(name, before, populated_bytes(machine, block), plugged))
    return replace(cycle, verdict=replace(cycle.verdict, checks=(*cycle.verdict.checks, *checks)))


def _judge_left_out(verdict: Verdict, name: str, block: RamBlock, plugged: int) -> CheckResult:
    found = verdict.check("page-missing")
    left_out = found.facts.get(f"not plugged in: {block.idstr}") if found else None
    problems = []
    if left_out != block.used_bytes - plugged:
        sentence = (
            f"At T0 {block.used_bytes - plugged} bytes of '{block.idstr}' were not plugged in; the file "
            f"leaves out {left_out}."
        )
        problems.append(Problem(Code.VIRTIO_MEM_LEFT_OUT, sentence))
    return judged(f"memory/{name}/plugged", _PLUGGED, problems, {"bytes plugged in": plugged})


def _judge_untouched(name: str, before: int, after: int, plugged: int) -> CheckResult:
    problems = []
    if after > plugged:
        sentence = (
            f"QEMU has {after} bytes in place for the device, which has {plugged} bytes plugged in; before "
            f"the save it had {before}."
        )
        problems.append(Problem(Code.VIRTIO_MEM_TOUCHED, sentence))
    return judged(f"memory/{name}/untouched", _UNTOUCHED, problems, {"bytes in place": after})
