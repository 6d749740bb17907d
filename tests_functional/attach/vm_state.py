"""Judges whether a VM is as it was before a snapshot, and tells what its owner has changed meanwhile.

A VM that was attached belongs to somebody else, who may pause it, plug in a disk or set a parameter at any
time. Nothing of that is blamed on the snapshot; it is told as a fact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.attach.ledger import Before
from harness.attach.machine import AttachedMachine
from harness.attach.process import open_files
from harness.codes import Code
from harness.qemu import migration
from validators.checks import Problem, judged
from validators.oracles.o5_source_guest.source_guest import check_unprotected
from validators.verdict import CheckResult

_AS_BEFORE = "After the snapshot the VM has the run state, the files and the capability that it had before."
# What we set; all else is changed by somebody else.
_OUR_CAPABILITIES = (migration.BACKGROUND_SNAPSHOT,)
# QEMU keeps it open for good once it was asked for the capability.
_KEPT = "/dev/userfaultfd"
# QEMU 10.0 qapi/qdev.json: a device has gone, and so have its files.
_UNPLUGGED = "DEVICE_DELETED"


@dataclass(frozen=True)
class VmState:
    """What a snapshot must leave as it was.

    Attributes:
        settings: run state, capabilities and parameters.
        files: names of QEMU's descriptors by number, None where they cannot be seen.
    """

    settings: Before
    files: Mapping[int, str] | None


@dataclass(frozen=True)
class Found:
    """How a VM differs from what it was.

    Attributes:
        problems: what the snapshot must not have done.
        by_others: what its owner has done, the end of a sentence each.
    """

    problems: Sequence[Problem] = ()
    by_others: Sequence[str] = ()

    def __add__(self, other: Found) -> Found:
        return Found((*self.problems, *other.problems), (*self.by_others, *other.by_others))


def vm_state(machine: AttachedMachine) -> VmState:
    """Return what a snapshot must leave as it was."""

    def ask(command: str) -> Any:
        return machine.qmp.execute(command)

    return VmState(Before.look(ask), open_files(machine.pid) if machine.pid else None)


def judge_vm(machine: AttachedMachine, before: VmState, mark: int, folder: Path) -> list[CheckResult]:
    """Check that the VM is as it was before the snapshot.

    Args:
        machine: the VM, put back already.
        before: as it was.
        mark: of its QMP events, from before the snapshot.
        folder: of this proof, with the files whose descriptors QEMU was given.
    """
    now = vm_state(machine)
    events = [event.name for event in machine.qmp.events_since(mark)]
    found = (
        judge_state(before.settings.state, now.settings.state, events)
        + judge_settings(before.settings, now.settings)
        + judge_files(before.files, now.files, folder.resolve(), events)
    )
    facts = {f"by others {number}": what for number, what in enumerate(found.by_others, 1)}
    return [judged("source-vm", _AS_BEFORE, found.problems, facts), check_unprotected(machine)]


def judge_state(before: str, now: str, events: Sequence[str]) -> Found:
    """Judge the run state.

    A save stops the guest once and lets it go on. A guest that is paused and has gone on since then was
    paused by somebody else.

    Args:
        before: the run state then.
        now: the run state now.
        events: names of QEMU's events in between.
    """
    if before == now:
        return Found()
    changes = [name for name in events if name in ("STOP", "RESUME")]
    if (before, now) == ("running", "paused") and changes[-2:] == ["RESUME", "STOP"]:
        return Found(by_others=("the guest was paused after it had gone on",))
    return Found(
        [
            Problem(
                Code.RUN_STATE_CHANGED,
                f"The guest was '{before}' and is '{now}' after the snapshot.",
                {"before": before, "state": now},
            )
        ]
    )


def judge_settings(before: Before, now: Before) -> Found:
    """Judge capabilities and parameters; only those that we set must be as they were."""
    found = Found()
    for kind, then, after, ours in (
        ("capability", before.capabilities, now.capabilities, _OUR_CAPABILITIES),
        ("parameter", before.parameters, now.parameters, ()),
    ):
        for name in sorted({*then, *after}):
            if then.get(name) == after.get(name):
                continue
            change = f"the migration {kind} '{name}' was {then.get(name)} and is {after.get(name)}"
            if name in ours:
                sentence = f"{change[0].upper()}{change[1:]} after the snapshot."
                found += Found([Problem(Code.DURING_SAVE_SETTINGS, sentence, {"setting": name})])
            else:
                found += Found(by_others=(change,))
    return found


def judge_files(
    before: Mapping[int, str] | None,
    now: Mapping[int, str] | None,
    ours: Path,
    events: Sequence[str],
) -> Found:
    """Judge QEMU's descriptors; sockets come and go with clients.

    A file that has a path and is not ours was opened for its owner, and a file that was renamed or deleted
    keeps its number. One that was closed may be the wrong one (docs/findings.md, F5), unless a device has
    gone.

    Args:
        before: names of QEMU's descriptors by number, None where they cannot be seen.
        now: the same after the snapshot.
        ours: folder of the files that QEMU was given by us.
        events: names of QEMU's events in between.
    """
    if before is None or now is None:
        return Found()
    renamed = {number for number in before if _is_renamed(before[number], now.get(number, ""), ours)}
    found = Found(by_others=tuple(f"'{before[one]}' is now '{now[one]}'" for one in sorted(renamed)))
    then, after = _counted(before, renamed), _counted(now, renamed)
    for name in sorted({*then, *after}):
        more = after[name] - then[name]
        if more == 0:
            continue
        word = "more" if more > 0 else "fewer"
        change = f"QEMU has {abs(more)} {word} descriptors of '{name}' after the snapshot than before it"
        if _is_of_others(name, more, ours, events):
            found += Found(by_others=(change,))
        else:
            code = Code.HOST_FILE_LEFT_OPEN if more > 0 else Code.HOST_FILE_CLOSED
            found += Found([Problem(code, f"{change}.", {"name": name})])
    return found


def _counted(files: Mapping[int, str], renamed: Collection[int]) -> Counter[str]:
    names = (name for number, name in files.items() if number not in renamed)
    return Counter(name for name in names if name != _KEPT and not name.startswith("socket:"))


def _is_renamed(then: str, now: str, ours: Path) -> bool:
    return then != now and then.startswith("/") and _is_of_owner(now, ours)


def _is_of_others(name: str, more: int, ours: Path, events: Sequence[str]) -> bool:
    return _is_of_owner(name, ours) if more > 0 else _UNPLUGGED in events


def _is_of_owner(name: str, ours: Path) -> bool:
    """Tell whether a descriptor is of a file that is not ours, also of one that was deleted since."""
    return name.startswith("/") and not Path(name).is_relative_to(ours)
