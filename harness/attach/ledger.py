"""Keeps what a VM was like before we touched it and what we have changed, and puts that back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

CAPABILITIES, PARAMETERS = "query-migrate-capabilities", "query-migrate-parameters"

# QEMU 11.1 qapi/migration.json, MigrationStatus: a migration in any other status has ended.
_ENDED = ("none", "completed", "failed", "cancelled")
# QEMU 11.1 qapi/run-state.json, RunState: the state that the command `stop` leads to.
_STOPPED = "paused"
_POLL_SECONDS = 0.05
# A save that our process has left behind goes on to its end; none was seen to need a tenth of this.
_SAVE_SECONDS = 3600.0
_CLEAN_SECONDS = 30.0


class Refused(Exception):
    """QEMU answered one of the guard's commands with an error; the text is QEMU's, without a full stop."""


class Gone(Exception):
    """QEMU no longer answers, or has ended."""


Ask = Callable[..., Any]
"""Runs a QMP command with keyword arguments by QEMU's names; raises Refused or Gone."""


@dataclass(frozen=True)
class Before:
    """A VM before we touched it.

    Attributes:
        state: its run state.
        capabilities: its migration capabilities.
        parameters: its migration parameters.
    """

    state: str
    capabilities: Mapping[str, bool]
    parameters: Mapping[str, Any]

    @classmethod
    def look(cls, ask: Ask) -> Before:
        """Ask QEMU."""
        return cls(str(ask("query-status")["status"]), capabilities_of(ask), dict(ask(PARAMETERS)))


def capabilities_of(ask: Ask) -> dict[str, bool]:
    """Return QEMU's migration capabilities, each with whether it is on."""
    return {one["capability"]: bool(one["state"]) for one in ask(CAPABILITIES)}


@dataclass
class Ledger:
    """What was changed in a VM since `before`, by the commands that passed through the guard.

    Attributes:
        before: the VM as it was.
        stopped: a `stop` of ours has not been followed by a RESUME.
        migrated: a `migrate` was sent.
        capabilities: those that were set, whatever to.
        parameters: those that were set.
        descriptors: names of descriptors that QEMU was given and has not been told to close.
    """

    before: Before
    stopped: bool = False
    migrated: bool = False
    capabilities: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    descriptors: set[str] = field(default_factory=set)

    def note(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Take note of a command before it is sent."""
        if command == "stop":
            self.stopped = True
        elif command == "migrate":
            self.migrated = True
        elif command == "getfd":
            self.descriptors.add(str(arguments.get("fdname")))
        elif command == "migrate-set-parameters":
            self.parameters.update(arguments)
        elif command == "migrate-set-capabilities":
            self.capabilities.update(one["capability"] for one in arguments.get("capabilities", ()))

    def suspect_everything(self, descriptor: str) -> None:
        """Take note of all that a guard which has been lost may have been asked for."""
        self.stopped = self.migrated = True
        self.capabilities.update(self.before.capabilities)
        self.parameters.update(self.before.parameters)
        self.descriptors.add(descriptor)

    def resumed(self) -> None:
        """Take note of an event RESUME."""
        self.stopped = False


def put_back(ledger: Ledger, ask: Ask, say: Callable[[str], None]) -> None:
    """Put a VM back as it was: the guest first, then what migration needs.

    A save that still goes on is not cancelled, since QEMU 7.2 hangs after that (docs/findings.md, F9): the
    guest runs meanwhile, and the file belongs to us.

    Args:
        ledger: what was changed; what is put back is struck out.
        ask: runs a QMP command.
        say: called with one sentence for each thing that was put back, or cannot be.

    Raises:
        Gone: QEMU has ended or hangs.
    """
    _go_on(ledger, ask, say)
    if ledger.migrated:
        _await_end(ask, say)
        # QEMU 6.0 to 8.1 resume a guest that was stopped before the save (docs/findings.md, F1).
        if ledger.before.state == _STOPPED and _state(ask) == "running":
            ask("stop")
            say("The guest, which QEMU had resumed by itself, was stopped again.")
        ledger.migrated = False
    _go_on(ledger, ask, say)
    _put_capabilities(ledger, ask, say)
    _put_parameters(ledger, ask, say)
    for name in sorted(ledger.descriptors):
        try:
            ask("closefd", fdname=name)
            say(f"QEMU's descriptor '{name}' was closed.")
        except Refused:
            # It has been used up, as a save that was begun does.
            continue
    ledger.descriptors.clear()


def _state(ask: Ask) -> str:
    return str(ask("query-status")["status"])


def _go_on(ledger: Ledger, ask: Ask, say: Callable[[str], None]) -> None:
    if ledger.stopped and ledger.before.state == "running" and _state(ask) == _STOPPED:
        ask("cont")
        say("The guest was continued.")
        ledger.stopped = False


def _await_end(ask: Ask, say: Callable[[str], None]) -> None:
    """Wait until a save has ended and QEMU has cleaned up after it."""
    end = time.monotonic() + _SAVE_SECONDS
    begun = True
    while (status := ask("query-migrate").get("status", "none")) not in _ENDED:
        if begun:
            say(f"The save is '{status}'; its end is awaited, while the guest runs.")
            begun = False
        if time.monotonic() > end:
            say(f"The save is still '{status}'; it is cancelled.")
            ask("migrate_cancel")
            break
        time.sleep(_POLL_SECONDS)
    end = time.monotonic() + _CLEAN_SECONDS
    while time.monotonic() < end and _is_cleaning(ask):
        time.sleep(_POLL_SECONDS)


def _is_cleaning(ask: Ask) -> bool:
    """Tell whether QEMU still cleans up; see harness.qemu.migration.wait_cleaned_up."""
    try:
        return any(one.get("type") == "migration" for one in ask("query-yank"))
    except Refused:
        return False


def _put_capabilities(ledger: Ledger, ask: Ask, say: Callable[[str], None]) -> None:
    now, before = capabilities_of(ask), ledger.before.capabilities
    for name in sorted(ledger.capabilities):
        if name in before and now.get(name) != before[name]:
            state = "on" if before[name] else "off"
            try:
                ask("migrate-set-capabilities", capabilities=[{"capability": name, "state": before[name]}])
                say(f"The capability '{name}' is {state} again.")
            except Refused as refusal:
                say(f"QEMU refuses to switch the capability '{name}' {state} again: {refusal}.")
                continue
        ledger.capabilities.discard(name)


def _put_parameters(ledger: Ledger, ask: Ask, say: Callable[[str], None]) -> None:
    now, before = dict(ask(PARAMETERS)), ledger.before.parameters
    for name in sorted(ledger.parameters):
        if name in before and now.get(name) != before[name]:
            try:
                ask("migrate-set-parameters", **{name: before[name]})
                say(f"The parameter '{name}' is {before[name]} again.")
            except Refused as refusal:
                say(f"QEMU refuses to set the parameter '{name}' to {before[name]} again: {refusal}.")
                continue
        ledger.parameters.discard(name)
