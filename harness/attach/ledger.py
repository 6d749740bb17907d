"""Keeps what a VM was like before we touched it and what we have changed, and puts that back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CAPABILITIES, PARAMETERS = "query-migrate-capabilities", "query-migrate-parameters"

PIN = "snapproof-pin"
"""Beginning of the names of all that pins a VM's disks: nodes, jobs, exports and descriptors."""

PIN_LISTENER = f"{PIN}-listener"
"""Name of the descriptor of the socket that QEMU serves pinned disks at."""

# QEMU 11.1 qapi/migration.json, MigrationStatus: a migration in any other status has ended.
_ENDED = ("none", "completed", "failed", "cancelled")
# QEMU 11.1 qapi/run-state.json, RunState: the state that the command `stop` leads to.
_STOPPED = "paused"
# As in harness.qemu.migration, which is not imported, so that the guard stays small.
_SNAPSHOT = "background-snapshot"
# From this version on QEMU no longer resumes a guest that was stopped before the save (docs/findings.md, F1).
_RESUMES_NO_MORE = (8, 2)
# QEMU 11.1 qapi/misc.json: commands that take a descriptor, and the argument that names it.
_TAKES_DESCRIPTOR = {"getfd": "fdname", "add-fd": "opaque"}
_POLL_SECONDS = 0.05
# A save that our process has left behind goes on to its end; none was seen to need a tenth of this.
_SAVE_SECONDS = 3600.0
_CLEAN_SECONDS = 30.0
# What of a pin goes away after its command has been answered: exports with their clients, jobs, nodes in use.
_UNPIN_SECONDS = 30.0


class Refused(Exception):
    """QEMU answered one of the guard's commands with an error; the text is QEMU's, without a full stop."""


class Gone(Exception):
    """QEMU has closed its monitor, as it does when it ends."""


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
        resumes: how many events RESUME came since then.
        capabilities: those that were set, on or off.
        parameters: those that were set.
        descriptors: names of descriptors that QEMU was given and has not been told to close.
        pinned: something was begun that pins disks, see `harness.attach.pins`.
        serves: the NBD server was started for that.
        copy: name of the domain that libvirt was asked to restore a copy as, "" if it was not.
    """

    before: Before
    stopped: bool = False
    migrated: bool = False
    resumes: int = 0
    capabilities: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    descriptors: set[str] = field(default_factory=set)
    pinned: bool = False
    serves: bool = False
    copy: str = ""

    def note(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Take note of a command before it is sent."""
        if command == "stop":
            self.stopped = True
        elif command == "migrate":
            self.migrated, self.resumes = True, 0
        elif command in _TAKES_DESCRIPTOR:
            self.descriptors.add(str(arguments.get(_TAKES_DESCRIPTOR[command])))
        elif command == "migrate-set-parameters":
            self.parameters.update(arguments)
        elif command == "migrate-set-capabilities":
            self.capabilities.update(one["capability"] for one in arguments.get("capabilities", ()))
        elif command == "nbd-server-start":
            self.pinned = self.serves = True
        elif command == "blockdev-add":
            self.pinned = self.pinned or str(arguments.get("node-name", "")).startswith(PIN)

    def suspect_everything(self, descriptors: Iterable[str]) -> None:
        """Take note of all that a guard which has been lost may have been asked for."""
        self.stopped = self.migrated = self.pinned = True
        self.capabilities.update(self.before.capabilities)
        self.parameters.update(self.before.parameters)
        # Pins are known by the beginning of their names.
        self.descriptors.update((*descriptors, PIN, PIN_LISTENER))

    @property
    def stands(self) -> bool:
        """Whether the guest is to stand still until the save: we have stopped it, or it was paused before."""
        return not self.migrated and (self.stopped or self.before.state == _STOPPED)

    def resumed(self) -> None:
        """Take note of an event RESUME."""
        self.stopped = False
        self.resumes += self.migrated


def put_back(ledger: Ledger, ask: Ask, say: Callable[[str], None], pins: bool = True) -> None:
    """Put a VM back as it was: the guest first, then what migration needs.

    A save that still goes on is not cancelled, since QEMU 7.2 hangs after that (docs/findings.md, F9): the
    guest runs meanwhile, and the file belongs to us. A step that QEMU refuses does not keep the others back.

    Args:
        ledger: what was changed; what is put back is struck out.
        ask: runs a QMP command.
        say: called with one sentence for each thing that was put back, or cannot be.
        pins: whether the disks are no longer to be pinned.

    Raises:
        Gone: QEMU has ended.
    """
    for what, step in _STEPS:
        if step is unpin and not pins:
            continue
        try:
            step(ledger, ask, say)
        except Refused as refusal:
            say(f"QEMU refuses what it takes to {what}: {refusal}.")


def still_stopped(ledger: Ledger, ask: Ask) -> bool:
    """Return whether the guest, which ran before, is stopped by us."""
    return ledger.stopped and ledger.before.state == "running" and _state(ask) == _STOPPED


def go_on(ledger: Ledger, ask: Ask, say: Callable[[str], None]) -> None:
    """Continue a guest that we have stopped; raises Refused if QEMU refuses that."""
    if still_stopped(ledger, ask):
        ask("cont")
        say("The guest was continued.")
        ledger.stopped = False


def by_hand(before: Before) -> str:
    """Return what to type into the human monitor to put a VM back as it was."""
    words = ["cont"] if before.state == "running" else []
    off = sorted(name for name, on in before.capabilities.items() if name == _SNAPSHOT and not on)
    words += [f"when 'info migrate' has no 'active': migrate_set_capability {name} off" for name in off]
    return "; then, ".join(words)


def _state(ask: Ask) -> str:
    return str(ask("query-status")["status"])


def _end_save(ledger: Ledger, ask: Ask, say: Callable[[str], None]) -> None:
    """Wait for the end of a save, and undo what QEMU itself has done to the guest's run state."""
    if not ledger.migrated:
        return
    status = _await_end(ask, say)
    state, before = _state(ask), ledger.before.state
    if before == "running" and state == _STOPPED and status == "failed":
        # QEMU 10.0 migration/migration.c, bg_migration_thread(): it fails with the guest stopped.
        ledger.stopped = True
    elif before == _STOPPED and state == "running":
        _stop_again(ledger, ask, say)
    ledger.migrated = False


def _stop_again(ledger: Ledger, ask: Ask, say: Callable[[str], None]) -> None:
    """Stop a guest that QEMU, and nobody else, has resumed (docs/findings.md, F1)."""
    numbers = ask("query-version")["qemu"]
    if (numbers["major"], numbers["minor"]) < _RESUMES_NO_MORE and ledger.resumes == 1:
        ask("stop")
        say("The guest, which QEMU had resumed by itself, was stopped again.")
    else:
        say("The guest was paused and runs now; its owner may have started it, so it runs on.")


def unpin(ledger: Ledger, ask: Ask, say: Callable[[str], None]) -> None:
    """Take away all that pins disks: exports, the server, jobs, nodes; raises Refused if QEMU refuses that.

    The descriptors that belong to it are closed by a later step.
    """
    if not ledger.pinned:
        return
    exports = [str(one["id"]) for one in ask("query-block-exports")]
    for name in filter(_is_pin, exports):
        _suppressed(ask, "block-export-del", id=name, mode="hard")
    _await_none(lambda: [one["id"] for one in ask("query-block-exports")])
    if (ledger.serves or any(map(_is_pin, exports))) and not ask("query-block-exports"):
        _suppressed(ask, "nbd-server-stop")
    for name in filter(_is_pin, (str(one["id"]) for one in ask("query-jobs"))):
        _suppressed(ask, "job-cancel", id=name)
    _await_none(lambda: [one["id"] for one in ask("query-jobs")])
    nodes = [str(one["node-name"]) for one in ask("query-named-block-nodes", flat=True)]
    ours = [name for name in nodes if _is_pin(name)]
    for name in ours:
        ask("blockdev-del", **{"node-name": name})
    ledger.pinned = ledger.serves = False
    if ours or exports:
        say("The disks are no longer pinned.")


def _is_pin(name: str) -> bool:
    return name.startswith(PIN)


def _suppressed(ask: Ask, command: str, **arguments: Any) -> None:
    """Run a command whose subject may have gone meanwhile."""
    with contextlib.suppress(Refused):
        ask(command, **arguments)


def _await_none(names: Callable[[], list[str]]) -> None:
    """Wait until nothing of ours is among names any more, or too long."""
    end = time.monotonic() + _UNPIN_SECONDS
    while any(_is_pin(str(name)) for name in names()) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)


def close_descriptors(ledger: Ledger, ask: Ask, say: Callable[[str], None]) -> None:
    """Close the descriptors that QEMU was given; those of pinned disks stay."""
    # QEMU opens the file of a pin anew when it changes how it is used.
    kept = {name for name in ledger.descriptors if ledger.pinned and _is_pin(name)}
    closed = ledger.descriptors - kept
    for name in sorted(closed):
        # It has been used up, as a save that was begun does.
        with contextlib.suppress(Refused):
            ask("closefd", fdname=name)
            say(f"QEMU's descriptor '{name}' was closed.")
    if closed:
        for one in ask("query-fdsets"):
            for member in one["fds"]:
                name = str(member.get("opaque"))
                if name in closed or (PIN in closed and _is_pin(name)):
                    ask("remove-fd", **{"fdset-id": one["fdset-id"], "fd": member["fd"]})
                    say(f"QEMU's descriptor '{name}' was closed.")
    ledger.descriptors &= kept


def _await_end(ask: Ask, say: Callable[[str], None]) -> str:
    """Wait until a save has ended and QEMU has cleaned up after it; return its status."""
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
    return str(status)


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


_STEPS: tuple[tuple[str, Callable[[Ledger, Ask, Callable[[str], None]], None]], ...] = (
    ("continue the guest", go_on),
    ("let go of the disks", unpin),
    ("see the end of the save", _end_save),
    ("continue the guest", go_on),
    ("put the capabilities back", _put_capabilities),
    ("put the parameters back", _put_parameters),
    ("close the descriptors", close_descriptors),
)
