"""Recognises known issues of the baseline in a list of steps: by what leads to them, and by code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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


def _asleep(steps: StepList) -> bool:
    """A guest sleeps."""
    return any(step.kind == "sleep" for step in steps.steps)


def _mode(steps: StepList) -> bool:
    """The parameter `mode` is set."""
    return any(
        step.kind == "qmp" and "mode" in step.arguments["arguments"] and step.arguments["command"] == _SET
        for step in steps.steps
    )


def _block(steps: StepList) -> bool:
    """The capability `block` is set."""
    return any(
        step.kind == "qmp" and step.arguments["command"] == _CAPABILITIES and _sets_block(step)
        for step in steps.steps
    )


def _sets_block(step: Step) -> bool:
    entries = step.arguments["arguments"].get("capabilities", ())
    return any(entry["capability"] == "block" and entry["state"] for entry in entries)


_SET, _CAPABILITIES = "migrate-set-parameters", "migrate-set-capabilities"

LEADS_TO: Mapping[str, Callable[[StepList], bool]] = {
    "F1": _stopped,
    "F5": _cancelled_at_once,
    "F6": _stalled,
    "F9": _broken,
    "F13": _asleep,
    "F24": _in_other_state,
    "F38": _mode,
    "F50": _block,
}
"""By the issue's id in the baseline: whether a list has what leads to it."""


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
        if violations and all(issue.recognises(one) for one in violations):
            return issue.id
    return ""
