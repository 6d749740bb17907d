"""Saves to destinations that are none, or that nobody reads, which QEMU must refuse or fail without harm."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.codes import Code
from harness.qemu import migration
from harness.qemu.qmp import CommandRefused
from tests_functional.explore.acts import give, must_accept, must_refuse
from tests_functional.explore.model import CANCELLED, COMPLETED, FAILED, RUNNING
from tests_functional.explore.session import Session, host_excused
from tests_functional.lib.sink_ends import listening_socket
from validators.checks import Problem

_END_SECONDS, _POLL_SECONDS = 15.0, 0.02
_ENDED = (COMPLETED, CANCELLED, FAILED)
# Of connections that nobody accepts, until the next one has to wait; Linux takes one more than asked for.
_MOST_WAITING = 8


def _channel(**address: Any) -> dict[str, Any]:
    return {"channels": [{"channel-type": "main", "addr": address}]}


DESTINATIONS: Mapping[str, Mapping[str, Any]] = {
    "none": {"uri": ""},
    "no-command": {"uri": "exec:"},
    "no-descriptor": {"uri": "fd:explored-none"},
    "no-folder": {"uri": "file:/nonexistent/explored"},
    "no-socket": {"uri": "unix:/nonexistent/explored"},
    "long-socket": {"uri": f"unix:/{'x' * 300}"},
    "no-port": {"uri": "tcp:127.0.0.1:1"},
    "no-vsock": {"uri": "vsock:explored:1"},
    "no-rdma": {"uri": "rdma:127.0.0.1:1"},
    "empty-rdma": {"uri": "rdma:"},
    "negative-offset": {"uri": "file:/nonexistent/explored,offset=-1"},
    "no-arguments": _channel(transport="exec", args=[]),
    "empty-argument": _channel(transport="exec", args=[""]),
    "no-program": _channel(transport="exec", args=["/nonexistent/explored"]),
    "empty-file": _channel(transport="file", filename="", offset=0),
    "empty-socket": _channel(transport="socket", type="unix", path=""),
    "empty-host": _channel(transport="socket", type="inet", host="", port=""),
    "empty-descriptor": _channel(transport="socket", type="fd", str=""),
    "no-channels": {"channels": []},
}
"""By name: arguments of `migrate` that lead nowhere. Nothing listens, is written or run there."""


def save_nowhere(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Ask for a save to a destination that is none; QEMU must refuse or fail it, and the guest go on."""
    given = DESTINATIONS[str(arguments["destination"])]
    if session.save_goes_on():
        must_refuse(session, "migrate", given)
        return True
    if session.model.save is not None or session.model.run_state != RUNNING:
        return False
    with _settings_kept(session, snapshot=bool(arguments["snapshot"])) as ready:
        if not ready or give(session, "migrate", given) is not None:
            return True
        status, words = _await_end(session)
        session.reached.add(f"end of a save nowhere: {status} {words[:60]}")
        if status not in (FAILED, CANCELLED):
            sentence = f"A save to a destination that there is not is '{status}' after {_END_SECONDS:.0f} s."
            code = Code.SAVE_WRONG_END if status == COMPLETED else Code.SAVE_UNFINISHED
            session.note("answers", Problem(code, sentence, {"status": status}))
        elif not words.strip():
            sentence = "QEMU does not say why a save to a destination that there is not has failed."
            session.note("answers", Problem(Code.SAVE_NO_REASON, sentence))
    return True


def cancel_unconnected(session: Session, arguments: Mapping[str, Any]) -> bool:
    """Cancel a save whose socket nobody accepts, which must end it, so that there can be another one."""
    model = session.model
    if model.save is not None or model.run_state != RUNNING:
        return False
    with _settings_kept(session, snapshot=bool(arguments["snapshot"])) as ready, _nobody_accepts() as uri:
        if not ready or give(session, "migrate", {"uri": uri}) is not None:
            return True
        if not must_accept(session, "migrate_cancel"):
            return True
        status, _ = _await_end(session)
        if status != CANCELLED:
            sentence = (
                f"A save that was cancelled while its socket was not accepted is '{status}' after "
                f"{_END_SECONDS:.0f} s, and there can be no other one."
            )
            session.note("answers", Problem(Code.SAVE_UNFINISHED, sentence, {"status": status}))
            return True
        if not _cleaned_up(session):
            sentence = (
                f"A save that was cancelled while its socket was not accepted is not cleaned up after "
                f"{_END_SECONDS:.0f} s, so that there can be no other one."
            )
            session.note("answers", Problem(Code.SAVE_NOT_CLEANED_UP, sentence, {"status": status}))
    return True


@contextmanager
def _settings_kept(session: Session, snapshot: bool) -> Iterator[bool]:
    """Switch the capability for a save that comes to nothing, and back; yield whether QEMU took it."""
    machine = session.machine
    before = bool(session.settings.capabilities.get(migration.BACKGROUND_SNAPSHOT))
    yield not migration.try_set_capability(machine, migration.BACKGROUND_SNAPSHOT, snapshot)
    if session.failed:
        return
    # As users do it: not before QEMU has cleaned up (F3).
    _cleaned_up(session)
    migration.try_set_capability(machine, migration.BACKGROUND_SNAPSHOT, before)


@contextmanager
def _nobody_accepts() -> Iterator[str]:
    """Yield the URI of a socket on which a connection waits for ever: enough others wait already."""
    with listening_socket() as (listener, uri), contextlib.ExitStack() as waiting:
        for _ in range(_MOST_WAITING):
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(listener.getsockname())
        yield uri


def _cleaned_up(session: Session) -> bool:
    """Wait until QEMU has cleaned up after a save; return whether it has."""
    limit = session.limit(_END_SECONDS)
    while migration.cleans_up(session.machine, session.limit()):
        if limit.expired:
            return False
        session.machine.pause(limit, _POLL_SECONDS)
    return True


def _await_end(session: Session) -> tuple[str, str]:
    """Wait until the save has ended; return its status and QEMU's reason, "" for none."""
    limit = session.limit(_END_SECONDS)
    with host_excused(session.machine):
        while True:
            try:
                answer = session.machine.query_migrate()
            except CommandRefused as refused:
                return "unknown", refused.reason
            status = str(answer.get("status"))
            if status in _ENDED or limit.expired:
                return status, str(answer.get("error-desc", ""))
            session.machine.pause(limit)
