"""Saves and snapshots of libvirt's own, with the capability background-snapshot off and left on, judged."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import NotApplicable, UsageError
from harness.libvirt.daemon import Libvirt, VirshRefused, VirshUnfinished
from harness.qemu.configuration import MIB
from harness.qemu.disk import make_empty_disk
from harness.qemu.migration import BACKGROUND_SNAPSHOT
from harness.qemu.qmp import Event
from harness.status import Status
from tests_functional.attach.domains import NAME, DomainGuest, own_libvirt, writing_domain
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged, skipped
from validators.judge import check_file
from validators.verdict import CheckResult, Verdict

_ONE_T0 = "What libvirt saves is the guest at one T0, and the disks are pinned at that T0 too."
_DISK = """
<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2'/>
  <source file='{path}'/>
  <target dev='vda' bus='virtio'/>
</disk>
"""
_DISK_BYTES = 64 * MIB
_RIGHT, _WRONG, _REFUSED, _ENDLESS = "right", "wrong", "refused", "endless"


@dataclass(frozen=True)
class KnownWrong:
    """A flow that is wrong by a finding.

    Attributes:
        label: of the flow.
        finding: as in docs/findings.md.
        versions: of QEMU, as prefixes.
        always: whether it is wrong each time.
    """

    label: str
    finding: str
    versions: tuple[str, ...] = ("",)
    always: bool = True


_KNOWN_WRONG = (
    # QEMU up to 8.1 has a guest go on that libvirt has stopped.
    KnownWrong("save/on", "F1", ("7.2.",)),
    KnownWrong("managedsave/on", "F1", ("7.2.",)),
    KnownWrong("snapshot-outside/on", "F1", ("7.2.",)),
    KnownWrong("snapshot-outside-live/on", "F62"),
    KnownWrong("snapshot-outside-live/off", "F63", ("7.2.",), always=False),
    KnownWrong("dump-live/off", "F63", ("7.2.",), always=False),
)
_COMPLETED = "COMPLETED"
# A save of these guests takes 1 to 5 s; one that follows a guest that writes all the time may never end.
_FLOW_SECONDS = 45.0


@dataclass(frozen=True)
class LibvirtFlow:
    """A way in which libvirt saves a domain.

    Attributes:
        name: in results.
        words: of virsh, behind the domain's name; {folder} is one that is empty.
        file: what is judged, in the folder, or the path that libvirt knows it by; "" for a snapshot in the
            disk.
        lives: whether the guest is to run on.
        pins: whether the state of the disk belongs to what is saved.
    """

    name: str
    words: tuple[str, ...]
    file: str
    lives: bool = False
    pins: bool = True


FLOWS = (
    LibvirtFlow("save", ("save", NAME, "{folder}/vmstate"), "vmstate"),
    LibvirtFlow("save-sparse", ("save", NAME, "{folder}/vmstate", "--image-format", "sparse"), "vmstate"),
    LibvirtFlow("save-zstd", ("save", NAME, "{folder}/vmstate", "--image-format", "zstd"), "vmstate"),
    # libvirt 11.3 src/qemu/qemu_conf.c: `saveDir` of system mode.
    LibvirtFlow("managedsave", ("managedsave", NAME), f"/var/lib/libvirt/qemu/save/{NAME}.save"),
    LibvirtFlow("dump-live", ("dump", NAME, "{folder}/vmstate", "--live"), "vmstate", True, pins=False),
    LibvirtFlow("snapshot-inside", ("snapshot-create-as", NAME, "one"), "", lives=True),
    LibvirtFlow(
        "snapshot-outside",
        ("snapshot-create-as", NAME, "one", "--memspec", "{folder}/vmstate,snapshot=external"),
        "vmstate",
        lives=True,
    ),
    LibvirtFlow(
        "snapshot-outside-live",
        ("snapshot-create-as", NAME, "one", "--memspec", "{folder}/vmstate,snapshot=external", "--live"),
        "vmstate",
        lives=True,
    ),
)


@dataclass(frozen=True)
class Found:
    """What came of a flow.

    Attributes:
        verdict: right, wrong, refused, or endless.
        why: a sentence, or libvirt's words.
    """

    verdict: str
    why: str = ""


def libvirt_flows(name: str) -> Callable[[Run], Outcome]:
    """Return a scenario that runs each flow with the capability off and left on, in a domain of its own."""

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        checks, table = [], {}
        with own_libvirt(run, name, "root", run.folder) as libvirt:
            for flow in FLOWS:
                for on in (False, True):
                    label = f"{flow.name}/{'on' if on else 'off'}"
                    found = _run_flow(run, libvirt, flow, on, run.folder / label.replace("/", "-"))
                    run.say(f"{label}: {found.verdict} {found.why}")
                    table[label] = found.verdict
                    version = str(run.host_environment.get("qemu", ""))
                    checks.append(judge_flow(label, found, known_wrong(label, version)))
        holds = f"libvirt {libvirt.packages.version}: " + ", ".join(
            f"{sum(one == word for one in table.values())} {word}"
            for word in (_RIGHT, _WRONG, _REFUSED, _ENDLESS)
        )
        return outcome_of(run, checks, time.monotonic() - begun, f"{holds}.", dict(table))

    return scenario


def known_wrong(label: str, version: str) -> KnownWrong | None:
    """Return why a flow is wrong with a version of QEMU, None if it should be right."""
    return next(
        (one for one in _KNOWN_WRONG if one.label == label and version.startswith(one.versions)), None
    )


def judge_flow(label: str, found: Found, known: KnownWrong | None = None) -> CheckResult:
    """Return the check of a flow; one that libvirt refuses harms nobody.

    Args:
        label: of the flow.
        found: what came of it.
        known: why it is wrong: it has to be so then, or the finding is out of date.
    """
    if known and known.always:
        problems = []
        if found.verdict != _WRONG:
            sentence = (
                f"It is {found.verdict}, and {known.finding} in docs/findings.md says that it is wrong."
            )
            problems.append(Problem(Code.ATTACH_LIBVIRT_FLOW, sentence, {"what": label}))
        return judged(label, f"This is wrong, as {known.finding} in docs/findings.md says.", problems)
    if known and found.verdict == _WRONG:
        return skipped(label, _ONE_T0, f"It is wrong, as {known.finding} says: {found.why}")
    if found.verdict in (_REFUSED, _ENDLESS):
        return skipped(label, _ONE_T0, found.why)
    problems = []
    if found.verdict == _WRONG:
        problems.append(Problem(Code.ATTACH_LIBVIRT_FLOW, found.why, {"what": label}))
    return judged(label, _ONE_T0, problems)


def _run_flow(run: Run, libvirt: Libvirt, flow: LibvirtFlow, on: bool, folder: Path) -> Found:
    folder.mkdir()
    disk = folder / "disk.qcow2"
    make_empty_disk(disk, _DISK_BYTES)
    here = replace(run, folder=folder)
    try:
        with writing_domain(here, libvirt, _DISK.format(path=disk)) as guest:
            if on:
                command = f"migrate_set_capability {BACKGROUND_SNAPSHOT} on"
                if words := libvirt.run("qemu-monitor-command", NAME, "--hmp", command).strip():
                    raise NotApplicable(f"QEMU refuses the capability: {words}")
            found = _judged(libvirt, flow, guest, folder, disk)
        if found.verdict != _WRONG:
            run.discard(folder)
        return found
    finally:
        libvirt.discard(NAME)


def _judged(libvirt: Libvirt, flow: LibvirtFlow, guest: DomainGuest, folder: Path, disk: Path) -> Found:
    machine = guest.source.guest.machine
    mark = machine.qmp.mark()
    try:
        libvirt.run(*(word.format(folder=folder) for word in flow.words), seconds=_FLOW_SECONDS)
    except VirshUnfinished:
        return Found(_ENDLESS, f"It has not ended after {_FLOW_SECONDS:g} s.")
    except VirshRefused as refusal:
        return Found(_REFUSED, refusal.sentence)
    # Events arrive beside the answers of commands.
    machine.pause(Deadline(1.0), 0.5)
    events = [name for one in machine.qmp.events_since(mark) if (name := _moment(one))]
    state = libvirt.run("domstate", NAME).strip()
    if flow.lives and state != "running":
        return Found(_WRONG, f"The domain is left '{state}'.")
    try:
        verdict = check_file(_judged_file(libvirt, flow, folder, disk))
    except UsageError as error:
        return Found(_WRONG, f"The file cannot be read: {error.sentence}")
    if wrong := wrong_file(verdict):
        return Found(_WRONG, wrong)
    if flow.pins and not at_one_time(events, flow.lives):
        return Found(
            _WRONG,
            f"The guest ran between T0 of its memory and that of its disk (events: {', '.join(events)}).",
        )
    return Found(_RIGHT)


def _judged_file(libvirt: Libvirt, flow: LibvirtFlow, folder: Path, disk: Path) -> Path:
    """Return what a flow has made; a file that libvirt keeps in its own place is copied into the folder."""
    if not flow.file.startswith("/"):
        return folder / flow.file if flow.file else disk
    return Path(shutil.copy(libvirt.inside(flow.file), folder / "vmstate"))


def wrong_file(verdict: Verdict) -> str:
    """Return what is wrong with a file in one sentence, "" for nothing."""
    failed = [check for check in verdict.checks if check.status is Status.FAIL]
    if failed:
        first = failed[0].violations[0].sentence if failed[0].violations else failed[0].name
        return f"{', '.join(check.name for check in failed)}: {first}"
    if verdict.t0 is None:
        return "There is no page of the writers in it."
    return ""


def _moment(event: Event) -> str:
    """Return the name of an event that tells when the guest ran or was saved, "" for others."""
    if event.name in ("STOP", "RESUME"):
        return event.name
    return _COMPLETED if event.name == "MIGRATION" and event.data.get("status") == "completed" else ""


def at_one_time(events: list[str], lives: bool) -> bool:
    """Return whether the guest stood still from T0 until libvirt was done with the disks.

    libvirt pins them when memory is saved, and has the guest go on after that.

    Args:
        events: STOP, RESUME and COMPLETED (of the save) while the command ran, in order.
        lives: whether the guest is to run on afterwards.
    """
    stood = events[:-1] if lives and events and events[-1] == "RESUME" else events
    return "RESUME" not in stood
