"""Recognises known issues of the baseline in a list of steps: by what leads to them, and by code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from harness.codes import Code
from tests_functional.explore.steps import Step, StepList
from tests_functional.lib.known_issues import KnownIssue
from validators.verdict import Violation


def _stalled(steps: StepList) -> bool:
    """A sink stands still: one write by a device then hangs QEMU."""
    return any(step.kind == "sink" and step.arguments["speed"] == "stalled" for step in steps.steps)


def _broken(steps: StepList) -> bool:
    """A save is cancelled or fails."""
    return any(
        step.kind == "cancel"
        or (step.kind == "sink" and step.arguments["speed"] == "closed")
        or (step.kind == "qmp" and step.arguments["command"] == "yank")
        for step in steps.steps
    )


def _in_other_state(steps: StepList) -> bool:
    """A save begins while QEMU itself has stopped the guest."""
    panicked = [at for at, step in enumerate(steps.steps) if step.kind == "panic"]
    begun = [at for at, step in enumerate(steps.steps) if step.kind == "begin"]
    return bool(panicked and begun and panicked[0] < begun[-1]) and "panic" in steps.guest.devices


def _stopped(steps: StepList) -> bool:
    """A save begins while the guest is stopped."""
    stopped = [at for at, step in enumerate(steps.steps) if step.kind == "stop"]
    begun = [at for at, step in enumerate(steps.steps) if step.kind == "begin"]
    early = any(step.kind == "begin" and step.arguments.get("early") for step in steps.steps)
    return bool(stopped and begun and (early or stopped[0] < begun[-1]))


def _cancelled_at_once(steps: StepList) -> bool:
    """A save is cancelled before T0."""
    kinds = [step.kind for step in steps.steps]
    early = any(step.kind == "begin" and step.arguments.get("early") for step in steps.steps)
    return early and ("cancel" in kinds or "sink" in kinds)


def _fails_in_setup(steps: StepList) -> bool:
    """A background snapshot may fail while it is set up: before T0, or since its command ends at once."""
    return _cancelled_at_once(steps) or any(
        step.kind == "save-nowhere"
        and step.arguments["destination"] == "no-command"
        and bool(step.arguments["snapshot"])
        for step in steps.steps
    )


def _asleep(steps: StepList) -> bool:
    """A guest sleeps."""
    return any(step.kind == "sleep" for step in steps.steps)


def _saves_devices_asleep(steps: StepList) -> bool:
    """A guest sleeps, and the state of its devices is saved as for Xen."""
    return _asleep(steps) and _gives("xen-save-devices-state")(steps)


def _mode(steps: StepList) -> bool:
    """The parameter `mode` is set."""
    return any(
        step.kind == "qmp" and "mode" in step.arguments["arguments"] and step.arguments["command"] == _SET
        for step in steps.steps
    )


def _ignores_shared(steps: StepList) -> bool:
    """A guest with shared RAM is saved while the capability `x-ignore-shared` is on."""
    on = False
    for step in steps.steps:
        if step.kind == "qmp" and step.arguments["command"] == _CAPABILITIES:
            on = _switched(step, "x-ignore-shared", on)
        elif on and step.kind in _SAVES:
            return steps.guest.ram in _SHARED
    return False


def _limited(steps: StepList) -> bool:
    """The bandwidth of a save is limited while it goes on."""
    begun = False
    for step in steps.steps:
        begun = begun or step.kind in ("begin", "begin-starved")
        sets = step.kind == "qmp" and step.arguments["command"] == _SET
        given = step.arguments.get("arguments") if sets else None
        if begun and (step.kind == "limit-bandwidth" or (given and "max-bandwidth" in given)):
            return True
    return False


def _nowhere(*names: str) -> Callable[[StepList], bool]:
    """Return a function that says whether a list asks for a save to one of some destinations."""
    return lambda steps: any(
        step.kind == "save-nowhere" and step.arguments["destination"] in names for step in steps.steps
    )


def _unconnected(steps: StepList) -> bool:
    """A save is cancelled whose socket nobody accepts."""
    return any(step.kind == "cancel-unconnected" for step in steps.steps)


def _multifd_inside(steps: StepList) -> bool:
    """The capability `multifd` is set, and an internal snapshot taken."""
    on = any(
        step.kind == "qmp" and step.arguments["command"] == _CAPABILITIES and _sets(step, "multifd")
        for step in steps.steps
    )
    return on and any(step.kind == "save-inside" for step in steps.steps)


def _gives(*commands: str) -> Callable[[StepList], bool]:
    """Return a function that says whether a list gives one of some commands."""
    return lambda steps: any(
        step.kind == "qmp" and step.arguments["command"] in commands for step in steps.steps
    )


def _transaction(action: str) -> Callable[[StepList], bool]:
    """Return a function that says whether a list has a transaction with an action of a type."""
    return lambda steps: any(
        f'"type": "{action}"' in json.dumps(step.arguments["arguments"])
        for step in steps.steps
        if step.kind == "qmp" and step.arguments["command"] == "transaction"
    )


def _reopens_nothing(steps: StepList) -> bool:
    """`blockdev-reopen` gets an empty list."""
    return any(
        step.arguments["arguments"].get("options") == []
        for step in steps.steps
        if step.kind == "qmp" and step.arguments["command"] == "blockdev-reopen"
    )


def _adds(kind: str) -> Callable[[StepList], bool]:
    """Return a function that says whether a list adds an object of a type, or asks for its properties."""
    return lambda steps: any(
        kind in (step.arguments["arguments"].get("qom-type"), step.arguments["arguments"].get("typename"))
        for step in steps.steps
        if step.kind == "qmp" and step.arguments["command"] in ("object-add", "qom-list-properties")
    )


def _file_refused_early(steps: StepList) -> bool:
    """A block node of a file is asked for with a reservation manager, of which there is none here."""
    return any(
        step.kind == "qmp"
        and step.arguments["command"] in ("blockdev-add", "blockdev-reopen", "blockdev-create")
        and '"pr-manager"' in json.dumps(step.arguments["arguments"])
        for step in steps.steps
    )


def _asks_for_properties(steps: StepList) -> bool:
    """The properties of a type are asked for that cannot be made without more."""
    return any(
        step.arguments["arguments"].get("typename") in _FRAGILE
        for step in steps.steps
        if step.kind == "qmp" and step.arguments["command"] in _PROPERTIES_OF_TYPES
    )


def _hub_port_of_peer(steps: StepList) -> bool:
    """A hub port is added for a network backend by its name; which of them have a peer is not followed."""
    return any(
        step.arguments["arguments"].get("type") == "hubport" and "netdev" in step.arguments["arguments"]
        for step in steps.steps
        if step.kind == "qmp" and step.arguments["command"] == "netdev_add"
    )


def _block(steps: StepList) -> bool:
    """The capability `block` is set."""
    return any(
        step.kind == "qmp" and step.arguments["command"] == _CAPABILITIES and _sets(step, "block")
        for step in steps.steps
    )


def _switched(step: Step, name: str, before: bool) -> bool:
    """Return whether a capability is on after a command; its arguments may be of any type."""
    entries = step.arguments["arguments"].get("capabilities", ())
    for entry in entries if isinstance(entries, list) else ():
        if (
            isinstance(entry, dict)
            and entry.get("capability") == name
            and entry.get("state") in (True, False)
        ):
            before = bool(entry["state"])
    return before


def _sets(step: Step, name: str) -> bool:
    """Return whether a command switches a capability on; its arguments may be of any type."""
    entries = step.arguments["arguments"].get("capabilities", ())
    return isinstance(entries, list) and any(
        isinstance(entry, dict) and entry.get("capability") == name and entry.get("state") is True
        for entry in entries
    )


def _continued_early(steps: StepList) -> bool:
    """A guest is told to go on before T0 of a save; steps that wait for T0 end that time."""
    early = False
    for step in steps.steps:
        if step.kind == "begin":
            early = early or bool(step.arguments.get("early"))
        elif step.kind in _WAIT_FOR_T0:
            early = False
        elif step.kind == "cont" and early:
            return True
    return False


def _starved(steps: StepList) -> bool:
    """A save begins while QEMU can open few files."""
    return any(step.kind == "begin-starved" for step in steps.steps)


def _loaded(steps: StepList) -> bool:
    """A guest is loaded after a save has begun."""
    kinds = [step.kind for step in steps.steps]
    begun = [at for at, kind in enumerate(kinds) if kind in ("begin", "begin-starved")]
    return bool(begun) and "load-inside" in kinds[begun[0] :]


_SHARED = ("memfd", "shared-ram")
# Steps that take a save, or begin one.
_SAVES = ("begin", "begin-starved", "snapshot")
# Steps before which `Session.settle` waits for T0, and the end of the save.
_WAIT_FOR_T0 = (
    "finish", "reset", "panic", "sleep", "pattern", "untouched", "save-inside", "load-inside", "plug",
)  # fmt: skip
# Types of which a QEMU makes an object to list its properties, and cannot.
_FRAGILE = (
    "memory-region-portio-list", "microvm-machine", "qemu-graphic-console", "qio-net-listener",
    "virtio-gpu-gl-pci", "virtio-vga-gl", "x-remote-object",
)  # fmt: skip
_PROPERTIES_OF_TYPES = ("qom-list-properties", "device-list-properties")
_SET, _CAPABILITIES = "migrate-set-parameters", "migrate-set-capabilities"

LEADS_TO: Mapping[str, Callable[[StepList], bool]] = {
    "F1": _stopped,
    "F5": _fails_in_setup,
    "F6": _stalled,
    "F9": _broken,
    "F10": _starved,
    "F13": _asleep,
    "F24": _in_other_state,
    "F38": _mode,
    "F47": _gives("x-query-virtio-status"),
    "F50": _block,
    "F52": _continued_early,
    "F53": _loaded,
    "F54": _ignores_shared,
    "F55": _multifd_inside,
    "F58": _nowhere("empty-rdma"),
    "F59": _nowhere("no-arguments"),
    "F60": _unconnected,
    "F61": _limited,
    "F66": _transaction("block-dirty-bitmap-enable"),
    "F67": _reopens_nothing,
    "F68": _hub_port_of_peer,
    "F69": _adds("colo-compare"),
    "F70": _adds("acpi-generic-initiator"),
    "F71": _file_refused_early,
    "F72": _asks_for_properties,
    "F73": _adds("filter-dump"),
    "F74": _saves_devices_asleep,
    "F75": _adds("memory-backend-memfd"),
}
"""By the issue's id in the baseline: whether a list has what leads to it."""


AT_LEAST: Mapping[str, tuple[Code, ...]] = {
    "F52": (
        Code.RESTORED_CLOCK_AHEAD,
        Code.RESTORED_CLOCK_BACK,
        Code.RESTORED_WALL_CLOCK,
        Code.SAVE_UNFINISHED,
    ),
    "F54": (Code.ORACLES_NO_AGENT, Code.GOLDEN_PAGE_MISSING),
}
"""By the issue's id: codes of which one is always there. Its other codes are what may come with that.

A wrong page alone, or a restored guest that does not answer, has any number of other causes.
"""


def leads_to_known(steps: StepList, issues: Sequence[KnownIssue], version: str) -> bool:
    """Return whether a list has what leads to an issue that this QEMU is known to have."""
    return any(
        issue.id in LEADS_TO and issue.listed_seen(version) and LEADS_TO[issue.id](steps) for issue in issues
    )


def known_issue(
    steps: StepList, violations: Sequence[Violation], issues: Sequence[KnownIssue], version: str
) -> str:
    """Return the id of the issue that explains all violations of a list, "" if none does.

    A code alone would hide too much (a QEMU that hangs has the same one for any reason), so the list must
    have what leads to the issue.
    """
    for issue in issues:
        leads = LEADS_TO.get(issue.id)
        if leads is None or issue.listed_absent(version) or not leads(steps):
            continue
        codes = {one.code for one in violations}
        if issue.id in AT_LEAST and not codes & {*AT_LEAST[issue.id]}:
            continue
        if violations and all(issue.recognises(one) for one in violations):
            return issue.id
    return ""
