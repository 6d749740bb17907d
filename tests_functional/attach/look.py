"""Looks at a VM that runs already: what it is, and what is in the way of a snapshot."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.attach.machine import AttachedMachine
from harness.attach.process import QemuProcess, open_files
from harness.attach.virsh import Domain
from harness.guest.guest_agent import GuestAgent, VirshChannel
from harness.qemu.configuration import MIB
from harness.qemu.messages import INCOMPATIBLE_MEMORY
from harness.qemu.migration import BACKGROUND_SNAPSHOT, capabilities, try_set_capability
from harness.qemu.qmp import CommandRefused
from harness.qemu.ram import ramblocks
from harness.status import Status
from tests_functional.attach.look_libvirt import JOB, libvirt_facts
from tests_functional.lib.run import free_mib

# QEMU 11.1 qapi/migration.json, MigrationStatus, for a migration that has ended or never was.
_IDLE = ("none", "completed", "failed", "cancelled")
_PING_SECONDS = 5.0
_STATES = ("running", "paused")
_NAMESPACES = {True: "ours", False: "another one than ours", None: "unknown to this user"}
# Devices of QEMU 11.1 hw/ whose other side writes guest RAM by its own mapping (docs/foreign-writers.md).
_FOREIGN_DEVICE = re.compile(r"\bdev: ((?:vhost-user-|ivshmem|vfio-)[\w-]*)")
# QEMU 11.1 block/blkio.c and block/nvme.c: drivers whose disk writes guest RAM past QEMU's page tables.
_FOREIGN_DRIVERS = ("virtio-blk-vhost-user", "virtio-blk-vhost-vdpa", "virtio-blk-vfio-pci", "nvme")
_FOREIGN_NETWORK = re.compile(r"type=(vhost-user|vhost-vdpa)\b")
# Linux drivers/vhost/: the devices by which the kernel itself plays a virtio device.
_VHOST_FILE = re.compile(r"/dev/(vhost-[\w-]+|vfio/\S+)$")
_VHOST_IN_KERNEL = ("vhost-net", "vhost-vsock", "vhost-scsi")


class GoldenWay(StrEnum):
    """How RAM of T0 is copied from outside."""

    NONE = "none"
    MEMORY = "memory"
    DUMP = "dump"


# QEMU's dump is copied before it is deleted.
_TIMES_RAM = {GoldenWay.NONE: 1, GoldenWay.MEMORY: 2, GoldenWay.DUMP: 3}
_RIGHTS = "as root, or as QEMU's user where ptrace is allowed (kernel.yama.ptrace_scope 0)"
_WITHOUT_MEMORY = {
    GoldenWay.NONE: f"there is no golden image: run this {_RIGHTS}.",
    GoldenWay.DUMP: (
        "QEMU dumps it to this disk, for which the guest is stopped and which cannot be interrupted; RAM "
        f"that the guest's processors do not see then is not compared. It is whole if this is run {_RIGHTS}."
    ),
}


@dataclass(frozen=True)
class Obstacle:
    """Something that is in the way of a snapshot.

    Attributes:
        sentence: what it is and what lifts it.
        status: of the attempt to attach: SKIP where VM or host are not fit for it, MISS for a missing right,
            ERROR for a VM that is busy.
    """

    sentence: str
    status: Status


@dataclass(frozen=True)
class Look:
    """What was found.

    Attributes:
        facts: name and value, in the order of printing.
        obstacles: what is in the way; empty if the VM can be proven.
        notes: what limits the proof, a sentence each.
        ram_mib: all RAM that a stream carries.
        golden: how a golden image can be made.
        running: whether the guest runs.
    """

    facts: dict[str, str] = field(default_factory=dict)
    obstacles: tuple[Obstacle, ...] = ()
    notes: tuple[str, ...] = ()
    ram_mib: int = 0
    golden: GoldenWay = GoldenWay.NONE
    running: bool = True


def look(machine: AttachedMachine, folder: Path, golden: bool = True) -> Look:
    """Look at a VM; nothing of it is changed but its capability, for a moment.

    Args:
        machine: the VM.
        folder: where the snapshot is to be written; it need not be there.
        golden: whether a golden image is wanted.

    Raises:
        SubjectFailed: QEMU ended, or broke its own interface.
    """
    process, state = machine.process, machine.before.state
    libvirt = libvirt_facts(machine.way) if isinstance(machine.way, Domain) else {}
    ram_mib = -(-sum(block.used_bytes for block in ramblocks(machine)) // MIB)
    way = _golden_way(machine, process) if golden else GoldenWay.NONE
    busy = [*_libvirt_job(libvirt), *_busy(machine), *_state(state)]
    facts = {
        **libvirt,
        "QEMU": machine.version(),
        "machine": machine.config.machine,
        "accelerator": machine.config.accel,
        "RAM": f"{ram_mib} MiB",
        "run state": state,
        **_process_facts(process),
        **(_guest_agent(machine.way) if isinstance(machine.way, Domain) and state == "running" else {}),
        "background-snapshot": "not probed, since something else is in the way"
        if busy
        else "can be switched on",
    }
    refused = [] if busy else _capability(machine)
    if refused:
        facts["background-snapshot"] = "refused"
    return Look(
        facts,
        (*busy, *refused, *_blockers(machine), *_foreign_writers(machine), *_room(ram_mib, folder, way)),
        _notes(machine, process, way if golden else None),
        ram_mib,
        way,
        state == "running",
    )


def _process_facts(process: QemuProcess | None) -> dict[str, str]:
    if process is None:
        return {"process": "unknown: it is hidden from this user, or in another PID namespace"}
    return {
        "process": str(process.pid),
        "user": str(process.uid),
        "sandbox": process.sandbox or ("a seccomp filter" if process.filtered else "off"),
        "mount namespace": _NAMESPACES[process.same_files],
        "memory": "can be read" if process.readable else "cannot be read",
    }


def _guest_agent(domain: Domain) -> dict[str, str]:
    """Return whether the QEMU guest agent answers, by which an agent of ours can come into the guest."""
    answers = GuestAgent(VirshChannel(domain)).answers(_PING_SECONDS)
    return {"guest agent": "answers (--guest-agent)" if answers else "does not answer"}


def _state(state: str) -> list[Obstacle]:
    if state in _STATES:
        return []
    return [
        Obstacle(
            f"The guest is '{state}', and snapproof attaches to one that runs or is paused; bring it into "
            "one of these states.",
            Status.ERROR,
        )
    ]


def _libvirt_job(facts: dict[str, str]) -> list[Obstacle]:
    job = facts.get(JOB, "none")
    if job == "none":
        return []
    return [
        Obstacle(
            f"libvirt has a job of the domain ({job}: a save, a dump or a migration); wait for its end, or "
            "end it by 'virsh domjobabort'.",
            Status.ERROR,
        )
    ]


def _busy(machine: AttachedMachine) -> list[Obstacle]:
    found = []
    paused = machine.before.state == "paused"
    status = machine.query_migrate().get("status", "none")
    if status not in _IDLE:
        sentence = f"A migration is '{status}' in this VM; wait for its end, or have its owner cancel it."
        found.append(Obstacle(sentence, Status.ERROR))
    jobs = [str(job.get("id") or job.get("device")) for job in machine.qmp.execute("query-jobs")]
    if jobs:
        names = ", ".join(jobs)
        sentence = f"The VM has a job of its owner ({names}); wait for its end, or have its owner cancel it."
        found.append(Obstacle(sentence, Status.ERROR))
    if capabilities(machine).get(BACKGROUND_SNAPSHOT):
        found.append(
            Obstacle(
                "The capability background-snapshot is on already, so somebody else is at work or has "
                "forgotten it; switch it off by 'migrate_set_capability background-snapshot off'"
                + (", and continue the guest by 'cont' if it was left paused." if paused else "."),
                Status.ERROR,
            )
        )
    return found


def _capability(machine: AttachedMachine) -> list[Obstacle]:
    """Try the capability; it is off again when this returns, or else the guard puts it back."""
    if BACKGROUND_SNAPSHOT not in capabilities(machine):
        return [
            Obstacle("This QEMU has no background-snapshot; it takes QEMU 6.0 or later.", Status.SKIP),
        ]
    words = try_set_capability(machine, BACKGROUND_SNAPSHOT, True)
    if not words:
        machine.put_back()
        return []
    return [
        Obstacle(f"QEMU refuses the capability: {words.rstrip('.')}. {_lift(machine, words)}", Status.SKIP)
    ]


def _lift(machine: AttachedMachine, words: str) -> str:
    """Return the sentence that says what makes a QEMU accept the capability."""
    on = sorted(name for name, state in machine.before.capabilities.items() if state)
    if INCOMPATIBLE_MEMORY in words:
        return (
            "The host's kernel cannot protect memory of this kind (a memory backend of a file system, say); "
            "it takes a VM with anonymous memory, memfd or hugetlbfs."
        )
    if on and any(name in words for name in on):
        return f"Capabilities that are on: {', '.join(on)}; switch off what it names."
    user = f"user {machine.process.uid}" if machine.process else "QEMU's user"
    root = ", or 'user = \"root\"' in libvirt's qemu.conf" if isinstance(machine.way, Domain) else ""
    return (
        f"Let {user} trap faults in kernel mode: give it access to /dev/userfaultfd (QEMU 8.0 and later)"
        f"{root}, or set the sysctl vm.unprivileged_userfaultfd to 1; then start the VM anew, since QEMU "
        "chooses once."
    )


def _blockers(machine: AttachedMachine) -> list[Obstacle]:
    """Return what QEMU says about devices that cannot be saved (`blocked-reasons`, QEMU 6.0)."""
    return [
        Obstacle(f"QEMU cannot save this VM: {reason.rstrip('.')}. Unplug that device.", Status.SKIP)
        for reason in machine.query_migrate().get("blocked-reasons", ())
    ]


def _foreign_writers(machine: AttachedMachine) -> list[Obstacle]:
    found = set(_FOREIGN_DEVICE.findall(machine.hmp("info qtree")))
    found |= set(_FOREIGN_NETWORK.findall(machine.hmp("info network")))
    nodes: list[dict[str, Any]] = machine.qmp.execute("query-named-block-nodes", {"flat": True})
    found |= {f"the disk driver {node['drv']}" for node in nodes if node.get("drv") in _FOREIGN_DRIVERS}
    return [
        Obstacle(
            f"The VM has {name}: another process or device writes guest RAM past QEMU, so pages newer than "
            "T0 reach the file (docs/findings.md, F26). Unplug it, or use one that QEMU itself plays.",
            Status.SKIP,
        )
        for name in sorted(found)
    ]


def _golden_way(machine: AttachedMachine, process: QemuProcess | None) -> GoldenWay:
    """Return how RAM can be copied from outside."""
    if process is not None and process.readable:
        return GoldenWay.MEMORY
    try:
        offered = machine.qmp.execute("query-dump-guest-memory-capability")["formats"]
    except CommandRefused:
        return GoldenWay.NONE
    return GoldenWay.DUMP if "elf" in offered else GoldenWay.NONE


def _room(ram_mib: int, folder: Path, golden: GoldenWay) -> list[Obstacle]:
    needed, free = _TIMES_RAM[golden] * ram_mib + 64, free_mib(folder)
    if free >= needed:
        return []
    what = "the snapshot needs" if golden is GoldenWay.NONE else "snapshot and golden image need"
    return [
        Obstacle(
            f"The disk that holds '{folder}' has {free} MiB free, and {what} {needed}; name a folder on "
            "another disk with --results.",
            Status.ERROR,
        )
    ]


def _notes(
    machine: AttachedMachine, process: QemuProcess | None, golden: GoldenWay | None
) -> tuple[str, ...]:
    """Return what limits the proof.

    Args:
        machine: the VM.
        process: of QEMU.
        golden: how a golden image can be made, None if none is wanted.
    """
    notes = []
    if golden not in (GoldenWay.MEMORY, None):
        notes.append(f"QEMU's memory cannot be read by this user, so {_WITHOUT_MEMORY[golden]}")
    files = (open_files(process.pid) if process else None) or {}
    kernel = sorted({found[1] for name in files.values() if (found := _VHOST_FILE.search(name))})
    if kernel:
        known = all(name in _VHOST_IN_KERNEL for name in kernel)
        notes.append(
            f"The VM has {', '.join(kernel)} open: "
            + (
                "the host's kernel writes guest RAM there, which it does by QEMU's page tables. "
                if known
                else ""
            )
            + "This was never tested with a background snapshot."
        )
    try:
        backends = machine.qmp.execute("query-memdev")
    except CommandRefused:
        backends = []
    if shared := [str(one.get("id", "one")) for one in backends if one.get("share")]:
        notes.append(
            f"Other processes can map guest RAM (share=on of {', '.join(shared)}); that alone does no harm, "
            "but all that they write after T0 reaches the file."
        )
    return tuple(notes)
