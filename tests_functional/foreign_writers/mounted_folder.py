"""Saves a guest that has a virtio-9p device, with the shared folder mounted and not.

QEMU saves nothing of what a 9p device knows of its files, and refuses any save while the folder is mounted
(QEMU 10.0 hw/9pfs/9p.c v9fs_attach()). A guest that has not mounted it, or not any more, must be saved.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.codes import Code
from harness.errors import NotApplicable, SnapproofError
from harness.linux.socket_folder import socket_folder
from harness.qemu.architectures import TARGET_PAGE_BYTES
from harness.qemu.board import Board
from harness.qemu.configuration import qemu_quoted
from harness.qemu.machine import Machine
from harness.qemu.probe import has_device
from harness.qemu.qmp import CommandRefused
from tests_functional.foreign_writers.kinds import Place
from tests_functional.foreign_writers.marks import Marks
from tests_functional.foreign_writers.scenario import require_board
from tests_functional.foreign_writers.target import Target
from tests_functional.lib.build_outcome import Cycle, outcome_of
from tests_functional.lib.cycle import Source, snapshot_cycle, writing_guest
from tests_functional.lib.drivers.nine_p import SharedFolder
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.refused_save import judge_refusal
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.lib.source_checks import judge_source
from validators.checks import Problem, judged
from validators.oracles.o6_host.host_state import capture_host_state
from validators.verdict import CheckResult

_DEVICE = "virtio-9p-pci"
# QEMU 10.0 hw/9pfs/9p.c: "Migration is disabled when VirtFS export path '...' is mounted in the guest ...".
_NAMED = "VirtFS"
_FILE, _BYTES = "file", TARGET_PAGE_BYTES // 2
_RESTORED = "The restored guest reads the shared folder."
_HOLDS = (
    "A guest with a mounted folder is refused clearly or saved rightly, and one without is saved rightly."
)
_UNMOUNTED = ((Flow.STOP_AND_SAVE, False), (Flow.STOP_MIGRATE_CONT, False), (Flow.LIVE, False))
_MOUNTED = ((Flow.STOP_AND_SAVE, True), (Flow.LIVE, True))
_UNMOUNTED_AGAIN = ((Flow.LIVE, False),)


def mounted_folder(run: Run) -> Outcome:
    """Save a guest before it mounts the folder, while it is mounted, and afterwards."""
    begun = time.monotonic()
    kind = require_board(run)
    if not has_device(run.stack.executable, _DEVICE):
        raise NotApplicable(f"This QEMU has no device '{_DEVICE}'.")
    shared = run.folder / "shared"
    shared.mkdir()
    content = os.urandom(_BYTES)
    (shared / _FILE).write_bytes(content)
    checks: list[CheckResult] = []
    with socket_folder() as folder:
        flows = (*_UNMOUNTED, *_MOUNTED, *_UNMOUNTED_AGAIN)
        places = [
            Place(shared, folder / f"socket-{number}", Marks(), kind) for number in range(1 + len(flows))
        ]
        with writing_guest(run.with_arguments(_arguments(places[0]))) as booted:
            client = _client(booted.guest.machine, places[0])
            client.start()
            client.mount()
            client.unmount()
            machine = booted.guest.machine
            # A device opens more files with its first request.
            source = replace(booted, before=replace(booted.before, host=capture_host_state(machine)))
            was_mounted = False
            for number, ((flow, mounted), place) in enumerate(zip(flows, places[1:], strict=True), 1):
                if mounted != was_mounted:
                    (client.mount if mounted else client.unmount)()
                    was_mounted = mounted
                label = f"9p/{number:02d}-{flow.label}-{'mounted' if mounted else 'unmounted'}"
                checks += _Save(run, place, content, mounted).judge(source, flow, label)
            machine.quit()
    return outcome_of(run, checks, time.monotonic() - begun, _HOLDS)


def _arguments(place: Place) -> tuple[str, ...]:
    folder = f"local,id=foreign-folder,path={qemu_quoted(place.disk)},security_model=none,readonly=on"
    device = f"{place.virtio('virtio-9p')},fsdev=foreign-folder,mount_tag=foreign"
    return (*place.arguments(), "-fsdev", folder, "-device", device)


def _client(machine: Machine, place: Place) -> SharedFolder:
    target = Target(machine, 0, place.kind)
    return SharedFolder(Board(machine, place.kind, place.socket), target.memory, target.control)


@dataclass(frozen=True)
class _Save:
    """One save.

    Attributes:
        run: the test's.
        place: of the restored guest.
        content: of the file in the folder.
        mounted: whether the guest has the folder mounted.
    """

    run: Run
    place: Place
    content: bytes
    mounted: bool

    def judge(self, source: Source, flow: Flow, label: str) -> list[CheckResult]:
        """Save the guest, and judge the snapshot, or the refusal where the folder is mounted."""
        try:
            cycle: Cycle = snapshot_cycle(
                self.run,
                source,
                flow,
                label,
                further=self._look,
                restored_arguments=_arguments(self.place),
            )
        except CommandRefused as refusal:
            if not self.mounted:
                raise
            if flow is Flow.STOP_AND_SAVE:
                source.guest.machine.qmp.execute("cont")
            checks = [judge_refusal(refusal.reason, _NAMED), *judge_source(source.guest, source.before)]
            return [replace(check, name=f"{label}/{check.name}") for check in checks]
        return [replace(check, name=f"{label}/{check.name}") for check in cycle.verdict.checks]

    def _look(self, guest: Guest) -> list[CheckResult]:
        """Have the restored guest read the file, of a folder that it mounts unless it has it mounted."""
        client = _client(guest.machine, self.place)
        steps: list[Callable[[], None]] = [] if self.mounted else [client.mount]
        return [judge_folder(client, steps, self.content)]


def judge_folder(client: SharedFolder, steps: list[Callable[[], None]], content: bytes) -> CheckResult:
    """Check that a restored guest reads the right content.

    Args:
        client: the guest's.
        steps: what the guest does before.
        content: of the file.
    """
    problems = []
    try:
        for step in steps:
            step()
        found = client.read(_FILE, len(content))
    except SnapproofError as error:
        sentence = f"The shared folder does not go on in the restored guest: {error.sentence}"
        problems.append(Problem(Code.FOREIGN_WRITER_SILENT, sentence))
    else:
        if found != content:
            differ = sum(one != other for one, other in zip(found, content, strict=False))
            sentence = (
                f"The restored guest reads {len(found)} bytes of a file of {len(content)}, of which {differ} "
                "are wrong."
            )
            problems.append(Problem(Code.FOREIGN_WRITER_SILENT, sentence))
    return judged("restored-shared-folder", _RESTORED, problems)
