"""Takes snapshots of a guest that gets a DIMM after the capability was set, or while RAM is saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from guest_images.agent.format import PAGE_BYTES
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import DeadlineExpired, NotApplicable, SetupBroken, SubjectFailed
from harness.qemu import migration
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine
from harness.qemu.qmp import CommandRefused
from harness.qemu.virtio_driver import can_drive
from tests_functional.lib.build_outcome import Cycle, outcome_of, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, writing_guest
from tests_functional.lib.guest import Guest, Stack
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, save
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from tests_functional.memory.refusal import judge_given_up
from validators.checks import Problem, judged
from validators.verdict import CheckResult

# The smallest block that Linux on x86_64 can add (Documentation/admin-guide/mm/memory-hotplug.rst).
_DIMM_MIB = 128
_SLOTS = ("-m", "slots=2,maxmem=1G")
_ONLINE_SECONDS = 20.0
_SLACK_MIB = 2
PLUGGED_AT = 1 << 32
"""Guest-physical address of the first memory that is plugged into pc or q35, where no RAM lies above 4 GiB
(QEMU hw/i386/pc.c pc_memory_init(), device_memory)."""
_AUTO_ONLINE = "/sys/devices/system/memory/auto_online_blocks"
_MEANWHILE = "QEMU refuses memory that is plugged in during a save, and its message names the save."


@dataclass(frozen=True)
class PluggedKind:
    """A DIMM that is plugged into a running guest.

    Attributes:
        reason: why it is tested.
        backend: QOM type and properties of its memory, without id and size.
        meanwhile: True if it is plugged in while RAM is being saved; otherwise it is plugged in after the
            capability was set and before the writers start.
    """

    reason: str
    backend: tuple[str, Mapping[str, str | bool]]
    meanwhile: bool = False

    def booted(self, stack: Stack) -> Stack:
        """Return the stack with an empty slot, on which the guest is booted.

        A bare guest has no kernel that gives it plugged memory: its writers are sent there where the agent
        can reach it. Otherwise nobody uses that memory, but it is in the snapshot.
        """
        used = not self.meanwhile and (not stack.image.bare or reaches_plugged(stack))
        at = PLUGGED_AT if used and stack.image.bare else 0
        return replace(stack, extra=_SLOTS, plugged_mib=_DIMM_MIB if used else 0, plugged_at=at)

    def restored(self, stack: Stack) -> Stack:
        """Return the stack with the DIMM that the guest had at T0, on which its snapshots are restored."""
        stack = self.booted(stack)
        if self.meanwhile:
            return stack
        kind, properties = self.backend
        options = [f"{name}={_option(value)}" for name, value in properties.items()]
        memory = ",".join([kind, "id=mem1", f"size={_DIMM_MIB}M", *options])
        dimm = ("-object", memory, "-device", "pc-dimm,id=dimm1,memdev=mem1")
        return replace(stack, extra=(*stack.extra, *dimm))


def _option(value: str | bool) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else value


_ANONYMOUS: tuple[str, Mapping[str, str | bool]] = ("memory-backend-ram", {})

PLUGGED_KINDS: Mapping[str, PluggedKind] = {
    "plugged-anonymous": PluggedKind(
        "QEMU looks at RAM when the capability is set, and this RAM was not there then", _ANONYMOUS
    ),
    "plugged-memfd-shared": PluggedKind(
        "the same with RAM that can be protected from Linux 5.19", ("memory-backend-memfd", {"share": True})
    ),
    "plugged-unprotectable": PluggedKind(
        "with this RAM the capability would be refused, and the RAM comes after it was set",
        ("memory-backend-file", {"mem-path": "/var/tmp", "share": True}),
    ),
    "plugged-while-saving": PluggedKind("a new RAMBlock has no pages at T0", _ANONYMOUS, meanwhile=True),
}


def plugged_kind(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario for one of PLUGGED_KINDS: stopped at T0 with a golden image, and live."""
    kind = PLUGGED_KINDS[name]
    return lambda run: _while_saving(run, name, kind) if kind.meanwhile else _before_saving(run, name, kind)


def _before_saving(run: Run, name: str, kind: PluggedKind) -> Outcome:
    begun = time.monotonic()
    restored = replace(run, stack=kind.restored(run.stack))
    cycles: list[Cycle] = []

    def prepare(guest: Guest) -> None:
        migration.require_capability(guest.machine, migration.BACKGROUND_SNAPSHOT)
        _prepare_and_plug_in(run, guest, kind)

    with writing_guest(replace(run, stack=kind.booted(run.stack)), prepare) as source:
        require_in_use(kind.booted(run.stack), source)
        for flow in (Flow.STOP_MIGRATE_CONT, Flow.LIVE):
            label = f"{len(cycles) + 1:02d}-{flow.label}"
            try:
                cycles.append(_cycle(restored, source, flow, label, None, []))
            except SubjectFailed as failure:
                checks = judge_given_up(source, failure, name)
                holds = "QEMU fails the save of such RAM with a reason, and the guest goes on."
                return outcome_of(run, checks, time.monotonic() - begun, holds)
        source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun)


def _while_saving(run: Run, name: str, kind: PluggedKind) -> Outcome:
    begun = time.monotonic()
    run = replace(run, stack=kind.booted(run.stack))
    cycles: list[Cycle] = []
    with writing_guest(run, None if run.stack.image.bare else prepare_guest) as source:
        migration.require_capability(source.guest.machine, migration.BACKGROUND_SNAPSHOT)
        for flow in (Flow.STOP_MIGRATE_CONT, Flow.LIVE):
            found: list[CheckResult] = []

            def plug(found: list[CheckResult] = found) -> None:
                found.append(_plug_meanwhile(source.guest.machine, name, kind))

            label = f"{len(cycles) + 1:02d}-{flow.label}"
            cycles.append(_cycle(run, source, flow, label, plug, found))
        # The DIMM that was refused during the save is accepted after it.
        _plug_in_and_wait(run, source.guest, kind)
        source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun)


def _cycle(
    run: Run,
    source: Source,
    flow: Flow,
    label: str,
    meanwhile: Callable[[], None] | None,
    found: list[CheckResult],
) -> Cycle:
    """Take one snapshot with the capability as it was set before; `found` has checks of `meanwhile`."""
    run.require_room()
    folder = run.folder / label
    folder.mkdir()
    run.say(f"{label}: saving ({flow.value}).")
    limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
    snapshot = save(flow, source.guest, source.counters, folder, limit, Acts(saving=meanwhile))
    checks = [*judge_source(source.guest, source.before), *found]
    return judge_cycle(run, source, snapshot, label, checks)


def prepare_guest(guest: Guest) -> None:
    """Set the guest's kernel to use plugged memory at once.

    Raises:
        NotApplicable: the kernel has no memory hot-plug.
    """
    if guest.shell.run(f"echo online > {_AUTO_ONLINE}").exit_code:
        raise NotApplicable(f"The guest's kernel has no memory hot-plug: {_AUTO_ONLINE} is missing.")


def memory_mib(guest: Guest) -> int:
    """Return the guest kernel's MemTotal in MiB, which leaves out its own memory at boot."""
    return int(guest.shell.check("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) // 1024


def wait_memory(guest: Guest, mib: int) -> None:
    """Wait until the guest's kernel has `mib` MiB, as `memory_mib` counts them.

    Raises:
        SetupBroken: the kernel does not have them in time.
    """
    try:
        Deadline(_ONLINE_SECONDS).wait_for(
            lambda: abs(memory_mib(guest) - mib) <= _SLACK_MIB, "The guest's new memory", interval=0.1
        )
    except DeadlineExpired as error:
        raise SetupBroken(
            f"The guest has {memory_mib(guest)} MiB of memory and should have {mib} MiB by now."
        ) from error


def reaches_plugged(stack: Stack) -> bool:
    """Return whether the agent of a bare guest can use memory that is plugged in; see x86_64/entry.S."""
    bare = stack.image.architecture.bare
    return bare is not None and bare.maps_plugged and can_drive(stack.image.architecture, stack.machine)


def require_in_use(stack: Stack, source: Source) -> None:
    """Raise SetupBroken if the writers do not use plugged memory, though they should.

    Those of a guest with a kernel do where their pages do not fit into the RAM that it was booted with; those
    of a bare guest do where the memory lies where they were sent.
    """
    if stack.plugged_at:
        devices = source.guest.machine.qmp.execute("query-memory-devices")
        begins = [int(device["data"].get("memaddr", device["data"].get("addr", 0))) for device in devices]
        if PLUGGED_AT not in begins:
            raise SetupBroken(
                f"The plugged memory was to begin at {PLUGGED_AT:#x} and begins at "
                f"{', '.join(map(hex, begins)) or 'no address'}, so this run says nothing about it."
            )
        return
    if stack.image.bare:
        return
    written = source.status.data_pages * PAGE_BYTES // MIB
    if written <= stack.ram_mib:
        raise SetupBroken(
            f"The writers' {written} MiB may all lie in the {stack.ram_mib} MiB that the guest has from "
            "boot, so this run says nothing about plugged memory."
        )


def _plug_in(machine: Machine, kind: PluggedKind) -> None:
    backend, properties = kind.backend
    memory = {"qom-type": backend, "id": "mem1", "size": _DIMM_MIB * MIB, **properties}
    machine.qmp.execute("object-add", memory)
    machine.qmp.execute("device_add", {"driver": "pc-dimm", "id": "dimm1", "memdev": "mem1"})


def _prepare_and_plug_in(run: Run, guest: Guest, kind: PluggedKind) -> None:
    if not run.stack.image.bare:
        prepare_guest(guest)
    _plug_in_and_wait(run, guest, kind)


def _plug_in_and_wait(run: Run, guest: Guest, kind: PluggedKind) -> None:
    """Plug memory in, and wait until the guest's kernel has it, if it has a kernel."""
    if run.stack.image.bare:
        _plug_in(guest.machine, kind)
        return
    before = memory_mib(guest)
    _plug_in(guest.machine, kind)
    wait_memory(guest, before + _DIMM_MIB)


def _plug_meanwhile(machine: Machine, name: str, kind: PluggedKind) -> CheckResult:
    """Try to plug memory in while RAM is saved, and judge QEMU's answer.

    Raises:
        SetupBroken: the save was already over. SubjectFailed: it has failed.
    """
    problems, words = [], ""
    try:
        _plug_in(machine, kind)
        problems.append(
            Problem(
                Code.PLUG_ACCEPTED,
                "QEMU accepts new memory while it saves RAM, and the file may lack that memory.",
            )
        )
    except CommandRefused as refusal:
        words = refusal.reason
        machine.qmp.execute("object-del", {"id": "mem1"})
        if "migrat" not in words:
            problems.append(
                Problem(
                    Code.PLUG_UNCLEAR,
                    f"QEMU's message '{words}' does not name the save.",
                )
            )
    migration.require_under_way(
        machine, "The save was over before the memory was plugged in, so this run proves nothing."
    )
    return judged(f"memory/{name}/refusal", _MEANWHILE, problems, {"words": words})
