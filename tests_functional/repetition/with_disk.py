"""Snapshots memory and disk at the same T0 and restores both; a newer or older disk must be detected."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guest_images.disks.file_systems import ext4_errors, make_ext4
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.qemu.block import copy_disk, raw_disk, snapshot_disk, throw_away_disk
from harness.qemu.configuration import MIB
from harness.qemu.machine import Machine, known_pid
from harness.qemu.virtio_driver import can_drive
from harness.status import Status
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, judge_cycle, writing_guest
from tests_functional.lib.disk_loop import DiskLoop
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.restored_checks import judge_restored
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, Snapshot, take
from tests_functional.lib.source_checks import Baseline, judge_source
from tests_functional.lib.time_limits import COPY_SECONDS, RESTORE_SECONDS, SAVE_SECONDS
from tests_functional.repetition.bare_disk_loop import DISK_BYTES as BARE_DISK_BYTES
from tests_functional.repetition.bare_disk_loop import BareDiskLoop
from validators.checks import Problem, judged
from validators.oracles.o6_host.host_state import capture_host_state, open_files
from validators.verdict import CheckResult

_FILE_SYSTEM = "e2fsck finds no error in the unmounted file system."
_BASE = "Nothing writes to the disk as of T0 any more."
_SAME_T0 = "Memory and disk are of the same T0: no file that the source wrote before T0 is missing."
_WRONG = "A disk that is {age} than the memory is detected."

_DISK_BYTES = 64 * MIB
_PASSES_BEFORE, _PASSES_SINCE_OLDER = 20, 4


@dataclass(frozen=True)
class _Disks:
    """The images of one test."""

    folder: Path

    @property
    def base(self) -> Path:
        """Return the image that the guest boots with, which is the disk as of T0."""
        return self.folder / "base.raw"

    @property
    def overlay(self) -> Path:
        """Return the image that the source writes to after T0."""
        return self.folder / "overlay.qcow2"

    @property
    def older(self) -> Path:
        """Return the copy of the disk of some passes before T0."""
        return self.folder / "older.raw"

    def opened_by(self, machine: Machine) -> list[tuple[int, str]]:
        """Return the images that a QEMU has open, by descriptor and name."""
        ours = (str(self.base), str(self.overlay))
        return [(number, name) for number, name in open_files(known_pid(machine)) if name in ours]


@dataclass(frozen=True)
class _Taken:
    """A snapshot and the state of the source's disk.

    Attributes:
        snapshot: the snapshot of memory.
        base_digest: SHA256 of the disk at T0.
        before: number of files on the disk shortly before T0.
        record: SHA256 of every file that the source has written by the end, by name.
    """

    snapshot: Snapshot
    base_digest: str
    before: int
    record: Mapping[str, str]


def with_disk(run: Run) -> Outcome:
    """Snapshot memory and disk of a writing guest; restore both, then the memory with other disks."""
    begun = time.monotonic()
    disks = _Disks(run.folder / "disks")
    disks.folder.mkdir()
    _make_disk(disks.base, run)
    # The second restore needs the file of the first.
    keeping = replace(run, keep=True)
    with writing_guest(keeping.with_arguments(raw_disk(disks.base))) as source:
        taken, checks = _take(keeping, source, disks)
        source.guest.machine.quit()
    found = _judge_file_system(disks.folder / "source.raw", run)
    checks += [replace(check, name=f"source-{check.name}") for check in found]
    checks += _restored(keeping, source, taken, disks)
    newer, older = throw_away_disk(disks.overlay, "qcow2"), throw_away_disk(disks.older, "raw")
    checks.append(_wrong_disk(keeping, source, taken, "newer", newer))
    checks.append(_wrong_disk(keeping, source, taken, "older", older))
    if all(check.status is not Status.FAIL for check in checks) and not run.keep:
        run.discard(run.folder)
        shutil.rmtree(disks.folder)
    figures = {"files_before_t0": taken.before, "files_written_by_source": len(taken.record)}
    holds = "Memory and disk of one T0 go on together; a newer and an older disk are detected."
    return outcome_of(run, checks, time.monotonic() - begun, holds, figures)


def _take(run: Run, source: Source, disks: _Disks) -> tuple[_Taken, list[CheckResult]]:
    """Snapshot disk and memory while the guest is stopped, let it go on, and judge it."""
    guest, loop = source.guest, _loop(run, source.guest)
    loop.start()
    _require_passes(guest, loop, _PASSES_BEFORE - _PASSES_SINCE_OLDER)
    copy_disk(guest.machine, disks.older, Deadline(COPY_SECONDS))
    _require_passes(guest, loop, _PASSES_SINCE_OLDER)
    loop.begin_pass()
    # QEMU opens more files with the disk's first request.
    used = replace(source.before, host=capture_host_state(guest.machine))
    before, digests, files = loop.passes(), [], []

    def freeze() -> None:
        snapshot_disk(guest.machine, disks.overlay)
        digests.append(_digest(disks.base))
        files.extend(disks.opened_by(guest.machine))

    folder = run.folder / "with-disk"
    folder.mkdir()
    run.say(f"Saving memory and disk with {before} files on it.")
    limit = run.deadline.at_most(SAVE_SECONDS)
    acts = Acts(at_t0=freeze, saving=loop.end_pass if run.stack.image.bare else None)
    snapshot = take(Flow.STOP_MIGRATE_CONT, guest, source.counters, folder, limit, acts)
    _require_passes(guest, loop, loop.passes_after)
    checks = judge_source(guest, _with_files(used, files))
    guest.agent.pause()
    checks += [replace(check, name=f"source-{check.name}") for check in loop.judge()]
    _copy_disk(run, guest, disks.folder / "source.raw")
    return _Taken(snapshot, digests[0], before, loop.record()), checks


def _with_files(before: Baseline, files: Sequence[tuple[int, str]]) -> Baseline:
    """Return the source's state before the save, with the disk images that it has open since."""
    names = {name for _, name in files}
    kept = [file for file in before.host.descriptors if file[1] not in names]
    return replace(before, host=replace(before.host, descriptors=(*kept, *files)))


def _require_passes(guest: Guest, loop: DiskLoop | BareDiskLoop, count: int) -> None:
    """Wait for passes; the writers to memory rest meanwhile, which leaves the processor to the loop.

    Raises:
        SetupBroken: there are too few.
    """
    guest.agent.pause()
    made = loop.wait_passes(count)
    guest.agent.resume()
    if made < count:
        raise SetupBroken(
            f"The loop that writes to the guest's disk made {made} passes instead of {count}, so this run "
            "proves nothing."
        )


def _restored(run: Run, source: Source, taken: _Taken, disks: _Disks) -> list[CheckResult]:
    """Restore memory with the disk of T0 and judge both."""
    look = _Look(run, disks.folder / "restored.raw")
    place = run.with_arguments(throw_away_disk(disks.base, "raw"))
    cycle = judge_cycle(place, source, taken.snapshot, "with-disk", (), look)
    problems = []
    if _digest(disks.base) != taken.base_digest:
        problems.append(Problem(Code.DISK_BASE_CHANGED, "The disk as of T0 was written to after T0."))
    return [
        *cycle.verdict.checks,
        *look.further_checks(taken),
        judged("disk-base", _BASE, problems),
    ]


def _wrong_disk(run: Run, source: Source, taken: _Taken, age: str, disk: Sequence[str]) -> CheckResult:
    """Restore memory with a disk of another time, and check that the same checks detect it.

    Args:
        run: the test's.
        source: the source guest.
        taken: its snapshot.
        age: what the disk is beside the memory, `newer` or `older`.
        disk: the arguments for it.
    """
    run.say(f"Restoring the memory with a disk that is {age}, which must be detected.")
    folder = run.folder / f"{age}-disk"
    look = _Look(run, run.folder / f"{age}.raw")
    judge_restored(
        run.with_arguments(disk).stack,
        taken.snapshot,
        source.status,
        None,
        folder,
        run.deadline.at_most(RESTORE_SECONDS),
        look,
    )
    return judge_wrong_disk([*look.checks, *look.further_checks(taken)], age)


class _Look:
    """Judges the disk of a restored guest, from inside the guest and then by a copy of it.

    Attributes:
        checks: checks of the disk from inside the guest; empty if the guest did not get so far.
    """

    def __init__(self, run: Run, copy: Path) -> None:
        self.checks: list[CheckResult] = []
        self._run = run
        self._copy = copy
        self._record: Mapping[str, str] = {}

    def __call__(self, guest: Guest) -> list[CheckResult]:
        """Let the guest's loop go on, end it, judge the files, and copy the disk."""
        loop = _loop(self._run, guest)
        # All checks of memory have been made.
        guest.agent.pause()
        loop.drop_caches()
        self.checks = loop.judge()
        self._record = loop.record()
        _copy_disk(self._run, guest, self._copy)
        return self.checks

    def further_checks(self, taken: _Taken) -> list[CheckResult]:
        """Return checks of the copy and of the files' digests; none if the guest did not get so far."""
        if not self._record:
            return []
        return [
            *_judge_file_system(self._copy, self._run),
            judge_same_t0(taken.record, self._record, taken.before),
        ]


def judge_wrong_disk(found: Sequence[CheckResult], age: str) -> CheckResult:
    """Check that a disk of another time than the memory was detected.

    Args:
        found: the checks of the disk alone.
        age: what the disk is beside the memory, `newer` or `older`.
    """
    red = [check for check in found if check.status is Status.FAIL]
    problems = []
    if not red:
        sentence = f"Memory was restored with a disk that is {age}, and no check of the disk detected it."
        problems.append(Problem(Code.WRONG_DISK_UNSEEN, sentence, {"age": age}))
    facts = {check.name: check.violations[0].sentence for check in red}
    return judged(f"{age}-disk", _WRONG.format(age=age), problems, facts)


def judge_same_t0(source: Mapping[str, str], restored: Mapping[str, str], before: int) -> CheckResult:
    """Check the restored guest's files against the source's.

    Args:
        source: SHA256 of every file that the source wrote, by name.
        restored: SHA256 of every file of the restored guest after its loop had ended, by name.
        before: number of files before T0.

    Raises:
        SetupBroken: the source wrote no more than the restored guest did, so no file could be too new.
    """
    if len(source) <= len(restored):
        raise SetupBroken(
            f"The source wrote {len(source)} files and the restored guest {len(restored)}, so this run could "
            "not detect a file that is too new."
        )
    old = [f"file-{number}" for number in range(before)]
    problems = [
        Problem(
            Code.DISK_SAME_T0_OTHER_FILE,
            f"'{name}' was written before T0, and the restored guest lacks it or has other content.",
        )
        for name in old
        if source.get(name) != restored.get(name)
    ]
    facts = {"files_before_t0": before, "files_restored": len(restored), "files_source": len(source)}
    return judged("disk-same-t0", _SAME_T0, problems, facts)


def _loop(run: Run, guest: Guest) -> DiskLoop | BareDiskLoop:
    """Return the loop that writes to a guest's disk: in the guest, or in the host for a bare one."""
    return BareDiskLoop(guest.machine) if run.stack.image.bare else DiskLoop(guest.shell)


def _make_disk(path: Path, run: Run) -> None:
    """Create the disk of the source, with a file system unless the guest is bare.

    Raises:
        NotApplicable: nobody can use a disk in such a guest.
    """
    image, machine = run.stack.image, run.stack.machine
    if not image.bare:
        make_ext4(path, _DISK_BYTES, run.provisioning)
        return
    if not can_drive(image.architecture, machine):
        raise NotApplicable(f"The host cannot drive the disk of a bare guest on machine type '{machine}'.")
    with path.open("wb") as disk:
        disk.truncate(BARE_DISK_BYTES)


def _copy_disk(run: Run, guest: Guest, path: Path) -> None:
    """Copy a guest's disk to judge its file system, if it has one."""
    if not run.stack.image.bare:
        copy_disk(guest.machine, path, Deadline(COPY_SECONDS))


def _judge_file_system(image: Path, run: Run) -> list[CheckResult]:
    """Check an unmounted file system with e2fsck; the disk of a bare guest has none."""
    if run.stack.image.bare:
        return []
    problems = [
        Problem(Code.DISK_FILE_SYSTEM_ERROR, f"e2fsck: {line}")
        for line in ext4_errors(image, run.provisioning)
    ]
    return [judged("disk-file-system", _FILE_SYSTEM, problems)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
