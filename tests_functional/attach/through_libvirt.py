"""Restores the snapshot of a domain as libvirt does it, under another name and paused, and compares RAM."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

from harness.attach.domain_copy import DomainCopy, copy_domain
from harness.attach.machine import AttachedMachine
from harness.attach.monitor import MonitorUnusable
from harness.attach.virsh import Domain
from harness.codes import Code
from harness.errors import SetupBroken, SnapproofError
from harness.qemu.configuration import MIB
from harness.qemu.qmp import CommandRefused
from tests_functional.attach.restore import compare_ram
from tests_functional.attach.save import AttachedSnapshot
from tests_functional.lib.run import free_mib
from validators.checks import Problem, judged, skipped
from validators.oracles.o3_restored_guest.restored_guest import check_run_state
from validators.verdict import CheckResult
from validators.vmstate.containers.libvirt import save_image_header

_PREFIX = "libvirt/"
RESTORE = f"{_PREFIX}restore"
"""Name of the check that libvirt takes the file."""

_TAKES = "libvirt restores the file, in a save image, as a domain of another name, and ends it again."
RAM = f"{_PREFIX}restored-ram"
"""Name of the check of the copy's RAM."""

COPY_PREFIX = "snapproof-copy-"
"""Beginning of the names of the domains that libvirt restores."""

_FOLDER = "through-libvirt"
_IMAGE = "vmstate"
# Words of QEMU migration/savevm.c and migration/migration.c; libvirt passes on what QEMU has written last.
_NOT_LOADED = ("load of migration failed", "error while loading state", "Unknown savevm section")
_COPY_MAX_STOP = 60.0


def restore_through_libvirt(
    machine: AttachedMachine, snapshot: AttachedSnapshot, folder: Path, seconds: float
) -> tuple[list[CheckResult], tuple[str, ...]]:
    """Have libvirt restore a snapshot beside its domain, judge the copy, and end it.

    The copy never runs, so it writes to nothing and sends nothing.

    Args:
        machine: the domain, which runs on.
        snapshot: of it.
        folder: gets a folder `through-libvirt`.
        seconds: limit of the restore.

    Returns:
        The checks, and how the copy differs from the domain.
    """
    domain = machine.way
    if not isinstance(domain, Domain):
        return [skipped(RESTORE, _TAKES, "The VM is no domain of libvirt.")], ()
    name = f"{COPY_PREFIX}{uuid.uuid4().hex[:12]}"
    copy, why = _copy_of(domain, name)
    if copy is None:
        return [skipped(RESTORE, _TAKES, why)], ()
    changes = tuple(f"Through libvirt: {change}" for change in copy.changes)
    needed = snapshot.path.stat().st_size // MIB + 1
    place = folder / _FOLDER
    place.mkdir()
    if (free := free_mib(place)) < needed:
        sentence = f"The disk that holds '{place}' has {free} MiB free, and a save image needs {needed}."
        return [skipped(RESTORE, _TAKES, sentence)], changes
    (place / "domain.xml").write_text(copy.xml)
    image = write_save_image(snapshot.path, copy.xml, place / _IMAGE)
    try:
        return _restored(machine, domain, name, snapshot, image, seconds), changes
    finally:
        image.unlink()
        if machine.copy:
            with contextlib.suppress(SnapproofError):
                machine.end_copy()


def write_save_image(stream: Path, xml: str, image: Path) -> Path:
    """Write libvirt's header and a stream into a file that its owner alone can read; return its path."""
    image.touch(mode=0o600, exist_ok=False)
    with stream.open("rb") as content, image.open("wb") as out:
        out.write(save_image_header(xml, running=False))
        shutil.copyfileobj(content, out, MIB)
    return image


def _copy_of(domain: Domain, name: str) -> tuple[DomainCopy | None, str]:
    """Return the definition of a copy of the domain, or None and why there can be none."""
    try:
        copy = copy_domain(domain.ask("dumpxml", domain.name, "--migratable"), name, str(uuid.uuid4()))
    except MonitorUnusable as error:
        return None, str(error)
    except ValueError as error:
        return None, f"The XML that libvirt gives of the domain cannot be used: {error}."
    if copy.impossible:
        return None, f"No copy of the domain can be restored beside it: {' '.join(copy.impossible)}"
    return copy, ""


def _restored(
    machine: AttachedMachine,
    domain: Domain,
    name: str,
    snapshot: AttachedSnapshot,
    image: Path,
    seconds: float,
) -> list[CheckResult]:
    try:
        machine.restore_copy(name, image, seconds)
    except CommandRefused as refusal:
        return [judge_refusal(refusal.reason)]
    copy = Domain(name, domain.virsh, domain.uri)
    try:
        with AttachedMachine(copy, image.parent / "copy", _COPY_MAX_STOP) as restored:
            state = str(restored.qmp.execute("query-status")["status"])
            checks = [check_run_state(state, "paused"), compare_ram(restored, snapshot)]
    except SetupBroken as error:
        checks = [skipped("restored-ram", _TAKES, f"The restored domain cannot be judged: {error.sentence}")]
    return [
        _judge_end(name, machine.end_copy()),
        *(replace(check, name=f"{_PREFIX}{check.name}") for check in checks),
    ]


def judge_refusal(words: str) -> CheckResult:
    """Return the check of a file that libvirt has not restored.

    What it refuses for a reason of its own says nothing about the file; a QEMU that does not load it does.
    """
    words = words.rstrip(".")
    if any(known in words for known in _NOT_LOADED):
        sentence = f"The QEMU that libvirt has started does not load the file: {words}."
        return judged(RESTORE, _TAKES, [Problem(Code.RESTORE_FAILED, sentence)])
    return skipped(RESTORE, _TAKES, f"libvirt does not restore the file: {words}.")


def _judge_end(name: str, was_there: bool) -> CheckResult:
    """Return the check that the copy lived until it was ended."""
    problems = []
    if not was_there:
        sentence = f"The domain '{name}', which libvirt had restored, ended by itself."
        problems.append(Problem(Code.RESTORE_FAILED, sentence))
    return judged(RESTORE, _TAKES, problems)
