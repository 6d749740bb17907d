"""Attaches to guests of our own in domains of libvirt: right, with a planted fault, with a foreign writer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.attach.machine import AttachedMachine
from harness.attach.virsh import Domain
from harness.codes import Code
from harness.errors import SetupBroken
from harness.libvirt.daemon import Libvirt
from harness.linux.socket_folder import socket_folder
from harness.qemu.disk import make_empty_disk
from tests_functional.attach.domains import (
    MAX_STOP,
    NAME,
    DomainGuest,
    domain_xml,
    own_libvirt,
    writing_domain,
)
from tests_functional.attach.kills import INSTANTS, PIN_INSTANTS, Instant, arm
from tests_functional.attach.look import look
from tests_functional.attach.prove import AttachOptions, prove
from tests_functional.attach.scenario import (
    PLANTED_FAULT,
    RIGHT,
    Settled,
    judge_seen,
    judge_told,
    kill_at_each_instant,
    prove_at,
    require_acted,
    require_restored,
    settle,
)
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.daemons import STORAGE, served
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged
from validators.faults.live.wrapper import faulty_qemu
from validators.oracles.o5_source_guest.source_guest import check_source_guest
from validators.verdict import CheckResult

_JOBS = "After the proof libvirt says that the domain runs, and has no job of it."
_DEVICES = "libvirt of our own has left the machine's device nodes as they were."
_SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
_VHOSTDISK = """
<disk type='vhostuser' device='disk' snapshot='no'>
  <driver name='qemu' type='raw'/>
  <source type='unix' path='{socket}'/>
  <target dev='vda' bus='virtio'/>
</disk>
"""
DISK = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/>
  <source file='{disk}'/>
  <target dev='vda' bus='virtio'/>
</disk>
"""
_USUAL = f"""{DISK}
<interface type='user'><model type='e1000'/></interface>
<serial type='pty'/>
<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<sound model='ich6'/>
<graphics type='vnc' autoport='yes'/>
<video><model type='vga'/></video>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
"""
"""Devices that most domains have; each leads somewhere that no second QEMU may go."""
_DISK_BYTES = 1 << 20
_RESTARTED = "After libvirtd was restarted in mid-save, the guest runs and the capability is off."
_RESTARTS = (Instant("stop", True), Instant("migrate", True))
_SETTLE_SECONDS = 60.0


def proven_in_libvirt(name: str, user: str) -> Callable[[Run], Outcome]:
    """Return a scenario that proves a domain of a libvirt.

    Args:
        name: of the libvirt, see `guest_images.libvirt.LIBVIRTS`.
        user: of its QEMUs.
    """

    def scenario(run: Run) -> Outcome:
        begun, nodes = time.monotonic(), device_nodes()
        disk = make_disk(run)
        devices = _USUAL.format(disk=disk)
        with (
            own_libvirt(run, name, user, disk.parent) as libvirt,
            writing_domain(run, libvirt, devices) as guest,
        ):
            outcome = prove_at(guest.domain, run.folder / "proof", AttachOptions(run.name), run)
            require_restored(outcome)
            machine, source = guest.source.guest.machine, guest.source
            checks = [*outcome.checks, judge_domain(*said(libvirt))]
            checks += check_source_guest(machine, source.guest.agent, source.before.median_bucket)
        checks.append(judge_nodes(nodes, device_nodes()))
        run.discard(run.folder)
        holds = f"A domain of libvirt {libvirt.packages.version} was proven."
        return outcome_of(run, checks, time.monotonic() - begun, holds, dict(outcome.figures))

    return scenario


def make_disk(run: Run) -> Path:
    """Make an empty disk in a folder of its own, for QEMU's user, who may not enter every folder of ours."""
    disk = run.folder / "disk" / "disk.qcow2"
    disk.parent.mkdir()
    make_empty_disk(disk, _DISK_BYTES)
    disk.chmod(0o666)
    return disk


def planted_in_libvirt(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that attaches to a domain whose QEMU leaves pages unprotected."""

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        qemu = faulty_qemu(PLANTED_FAULT, run.stack.executable, run.folder, run.provisioning)
        faulty = replace(run, stack=replace(run.stack, executable=qemu.executable))
        with (
            own_libvirt(faulty, name, "root", run.folder) as libvirt,
            writing_domain(faulty, libvirt) as guest,
        ):
            outcome = prove_at(
                guest.domain, run.folder / "planted", AttachOptions(run.name, restore=False), run
            )
        require_acted(qemu)
        run.discard(run.folder)
        return outcome_of(run, [judge_seen(outcome)], time.monotonic() - begun, "The planted fault was seen.")

    return scenario


def foreign_in_libvirt(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that looks at a domain with a disk of vhost-user: it is told, and nothing saved."""

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        with socket_folder() as place:
            disk, socket = place / "disk", place / "socket"
            disk.write_bytes(bytes(_DISK_BYTES))
            values = {"socket": str(socket), "disk": str(disk)}
            with (
                served(STORAGE, values, run.folder / "daemon.log", run.provisioning),
                own_libvirt(run, name, "root", place) as libvirt,
            ):
                libvirt.start(domain_xml(run.stack, _VHOSTDISK.format(socket=socket), _SHARED))
                domain = Domain(NAME, str(libvirt.virsh), libvirt.uri)
                with AttachedMachine(domain, run.folder / "look", MAX_STOP) as machine:
                    obstacles = look(machine, run.folder).obstacles
        check = judge_told("vhost-user-blk", obstacles)
        return outcome_of(run, [check], time.monotonic() - begun, "The foreign writer was told.")

    return scenario


def killed_in_libvirt(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that kills the command or its guard at each instant of the save of a domain."""

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        disk = make_disk(run)
        with (
            own_libvirt(run, name, "root", disk.parent) as libvirt,
            writing_domain(run, libvirt, DISK.format(disk=disk)) as guest,
        ):
            checks = kill_at_each_instant(run, guest.source, guest.domain, (*INSTANTS, *PIN_INSTANTS))
            checks.append(judge_domain(*said(libvirt)))
        run.discard(run.folder)
        return outcome_of(run, checks, time.monotonic() - begun, "The domain was put back after each kill.")

    return scenario


def restarted_in_libvirt(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario in which libvirtd is restarted in the middle of saves of a domain.

    After `stop` the save is refused, since a RESUME may have been missed; after `migrate` it is right.
    """

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        checks = []
        with own_libvirt(run, name, "root") as libvirt, writing_domain(run, libvirt) as guest:
            for instant in _RESTARTS:
                run.say(f"libvirtd is restarted after '{instant.command}'.")
                folder = run.folder / instant.command
                found = _proven_with_restart(guest, folder, instant, run)
                checks += [replace(check, name=f"{instant.command}/{check.name}") for check in found]
                settled = settle(guest.source.guest.machine, _SETTLE_SECONDS)
                checks.append(judge_after_restart(instant, settled))
                run.discard(folder)
            checks.append(judge_domain(*said(libvirt)))
        return outcome_of(run, checks, time.monotonic() - begun, "The domain was put back each time.")

    return scenario


def _proven_with_restart(
    guest: DomainGuest, folder: Path, instant: Instant, run: Run
) -> tuple[CheckResult, ...]:
    """Prove a domain, with a restart of libvirtd at an instant; return the checks, none if it was refused.

    Raises:
        SetupBroken: it was refused where it should not be, or the other way round.
    """
    refused = ""
    with AttachedMachine(guest.domain, folder, MAX_STOP) as machine:
        arm(machine, instant, guest.libvirt.restart)
        try:
            outcome = prove(machine, AttachOptions(run.name, restore=False), folder, run.say)
        except SetupBroken as error:
            refused = error.sentence
    if (instant.command == "stop") != ("went on before" in refused):
        raise SetupBroken(
            f"libvirtd was restarted after '{instant.command}', and the save "
            + (f"was refused: {refused}" if refused else "was not refused, though events were lost.")
        )
    return () if refused else tuple(outcome.checks)


def judge_after_restart(instant: Instant, found: Settled) -> CheckResult:
    """Check that a domain is as it was, after libvirtd was restarted in the middle of a save."""
    problems = []
    if found.state != RIGHT.state:
        problems.append(Problem(Code.ATTACH_LEFT, f"The guest is left '{found.state}'.", {"what": "state"}))
    if found.capability:
        problems.append(Problem(Code.ATTACH_LEFT, "The capability is left on.", {"what": "capability"}))
    return judged(f"{instant.command}/put-back", _RESTARTED, problems)


def said(libvirt: Libvirt) -> tuple[str, str]:
    """Return what libvirt says of the domain: `domstate` and `domjobinfo`."""
    return libvirt.run("domstate", NAME).strip(), libvirt.run("domjobinfo", NAME).strip()


def judge_domain(state: str, job: str) -> CheckResult:
    """Check what libvirt says of the domain: `domstate` and `domjobinfo`."""
    problems = []
    if state != "running":
        problems.append(
            Problem(Code.ATTACH_LEFT, f"libvirt says that the domain is '{state}'.", {"what": "state"})
        )
    if "None" not in job.split():
        sentence = f"libvirt says that the domain has a job: {' '.join(job.split())}."
        problems.append(Problem(Code.ATTACH_LEFT, sentence, {"what": "migration"}))
    return judged("libvirt", _JOBS, problems)


def device_nodes(folder: Path = Path("/dev")) -> dict[str, tuple[int, ...]]:
    """Return type, mode, owner, group and number of each node of the machine, by name."""
    found: dict[str, tuple[int, ...]] = {}
    for path in folder.iterdir():
        state = path.lstat()
        found[path.name] = (state.st_mode, state.st_uid, state.st_gid, state.st_rdev, state.st_ino)
    return found


def judge_nodes(before: dict[str, tuple[int, ...]], now: dict[str, tuple[int, ...]]) -> CheckResult:
    """Check that the machine's device nodes are as they were; new ones are the kernel's."""
    problems = [
        Problem(
            Code.ATTACH_LEFT,
            f"/dev/{name} of the machine is no longer as it was: {before[name]}, now {now.get(name)}.",
            {"what": name},
        )
        for name in sorted(before)
        if now.get(name) != before[name]
    ]
    return judged("machine-devices", _DEVICES, problems, {"nodes": len(before)})
