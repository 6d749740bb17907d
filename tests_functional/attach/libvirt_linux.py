"""Attaches to Linux guests in domains of libvirt: with disk, UEFI and guest agent, right and with faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from guest_images.agent.build import compile_agent, plan_agent
from harness.codes import Code
from harness.errors import SetupBroken
from harness.guest.shell import GuestShell
from harness.libvirt.daemon import Libvirt
from harness.status import Status
from tests_functional.attach.domains import own_libvirt
from tests_functional.attach.guest_writers import GuestWay
from tests_functional.attach.libvirt import judge_domain, said
from tests_functional.attach.linux_domains import DATA_DISK, LinuxDomain, linux_domain
from tests_functional.attach.prove import AttachOptions
from tests_functional.attach.scenario import (
    PLANTED_FAULT,
    judge_seen,
    prove_at,
    require_acted,
    require_restored,
)
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.disk_loop import DiskLoop
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged
from validators.faults.live.wrapper import faulty_qemu
from validators.verdict import CheckResult

_MEMORY = "agent/restored-memory"
_OF_DISK = ("disk-loop", "disk-files")
_UNPINNED = "A guest that is restored on a disk of a later time notices it."
_GONE = "After the proof nothing of our agent is in the VM's guest."


def linux_in_libvirt(name: str, user: str) -> Callable[[Run], Outcome]:
    """Return a scenario that proves a Linux guest in a domain.

    A guest with a disk has the QEMU guest agent: by it our agent comes into the guest, and a loop writes to
    another disk with ext4 all the time, which the restored guest must find as its memory knows it.

    Args:
        name: of the libvirt, see `guest_images.libvirt.LIBVIRTS`.
        user: of its QEMUs.
    """

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        with _domain(run, name, user) as (libvirt, guest):
            outcome = prove_at(guest.domain, run.folder / "proof", _options(run, guest), run)
            require_restored(outcome)
            checks = [*outcome.checks, judge_domain(*said(libvirt))]
            if guest.shell is not None:
                _require_asked(outcome)
                checks.append(_judge_gone(guest.shell))
        run.discard(run.folder)
        holds = f"A domain of libvirt {libvirt.packages.version} was proven."
        return outcome_of(run, checks, time.monotonic() - begun, holds, dict(outcome.figures))

    return scenario


def planted_linux(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that attaches to a Linux guest in a domain whose QEMU leaves pages unprotected."""

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        qemu = faulty_qemu(PLANTED_FAULT, run.stack.executable, run.folder, run.provisioning)
        faulty = replace(run, stack=replace(run.stack, executable=qemu.executable))
        with _domain(faulty, name, "root", run.folder) as (_libvirt, guest):
            options = replace(_options(run, guest), restore=False)
            outcome = prove_at(guest.domain, run.folder / "planted", options, run)
        require_acted(qemu)
        run.discard(run.folder)
        return outcome_of(run, [judge_seen(outcome)], time.monotonic() - begun, "The planted fault was seen.")

    return scenario


def unpinned_disk(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that restores a Linux guest on the disk of a later time, which it must notice."""

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        with _domain(run, name, "root") as (_libvirt, guest):
            options = replace(_options(run, guest), pin=False)
            outcome = prove_at(guest.domain, run.folder / "unpinned", options, run)
        run.discard(run.folder)
        return outcome_of(run, [judge_unpinned(outcome)], time.monotonic() - begun, "The disk was seen.")

    return scenario


@contextmanager
def _domain(run: Run, name: str, user: str, *binds: Path) -> Iterator[tuple[Libvirt, LinuxDomain]]:
    """Boot the run's guest in a domain of a libvirt of our own."""
    files = run.folder / "domain"
    files.mkdir()
    with (
        own_libvirt(run, name, user, files, *binds) as libvirt,
        linux_domain(run, libvirt, files) as guest,
    ):
        yield libvirt, guest


def judge_unpinned(outcome: Outcome) -> CheckResult:
    """Check that a guest restored on a disk of a later time has said so, and no other check has failed."""
    failed = sorted(check.name for check in outcome.checks if check.status is Status.FAIL)
    problems = []
    if not failed or not set(failed) <= set(_OF_DISK):
        sentence = f"The disk of a later time was not seen; failed checks: {', '.join(failed) or 'none'}."
        problems.append(Problem(Code.WRONG_DISK_UNSEEN, sentence))
    return judged("unpinned", _UNPINNED, problems, {"failed": ", ".join(failed)})


def _require_asked(outcome: Outcome) -> None:
    """Raise SetupBroken if the restored guest was not asked, so that this shows too little."""
    names = [check.name for check in outcome.checks if check.status is not Status.SKIP]
    if missing := [name for name in (_MEMORY, "restored-disks", *_OF_DISK) if name not in names]:
        raise SetupBroken(f"The restored guest was not asked for: {', '.join(missing)}.")


def _judge_gone(shell: GuestShell) -> CheckResult:
    """Check that nothing of our agent is in the VM's guest, by a look of its own."""
    found = shell.run(
        "ls -d /run/snapproof* /tmp/snapproof* 2> /dev/null; ls -l /proc/[0-9]*/exe 2> /dev/null"
    )
    left = [line for line in found.stdout.splitlines() if "snapproof" in line]
    settings = shell.run("cat /proc/sys/vm/compact_unevictable_allowed").stdout.strip()
    if settings != "1":
        left.append(f"compact_unevictable_allowed is {settings}")
    problems = [Problem(Code.ATTACH_LEFT, f"Left in the guest: {one}.", {"what": "agent"}) for one in left]
    return judged("agent-gone", _GONE, problems)


def _options(run: Run, guest: LinuxDomain) -> AttachOptions:
    """Return what is wanted of a guest, and have it write to its disk if it has one."""
    if guest.shell is None:
        return AttachOptions(run.name)
    program = compile_agent(plan_agent(run.cache), run.provisioning)
    DiskLoop(guest.shell, DATA_DISK).start()
    way = GuestWay(guest.shell, lambda _machine: program, "the QEMU guest agent")
    return AttachOptions(run.name, guest=way, further=_judge_disk)


def _judge_disk(shell: GuestShell) -> list[CheckResult]:
    return DiskLoop(shell, DATA_DISK).judge()
