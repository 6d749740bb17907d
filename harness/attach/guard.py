"""Guard: a process that owns the monitor of a VM, and puts back what was set when our own process ends.

Usage: ``python -m harness.attach.guard DESCRIPTOR ORDER``. The descriptor is a socket to the process that it
serves, to which the guard is the QMP server; the order is JSON. It first prints a line of JSON: what it
found, or why it cannot. It survives the signals that end a terminal's programs. When the socket
closes, however its other end ended, it puts the VM back as it was and ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from harness.attach.ledger import (
    Before,
    Gone,
    Ledger,
    Refused,
    close_descriptors,
    go_on,
    put_back,
    still_stopped,
    unpin,
)
from harness.attach.monitor import (
    Message,
    MessageSplitter,
    Monitor,
    MonitorUnusable,
    SocketMonitor,
    close_all,
    receive_commands,
)
from harness.attach.virsh import EVENTS_LOST, Domain, VirshMonitor

PUT_BACK = "x-snapproof-put-back"
"""Command to the guard: put the VM back as it was; returns a sentence for each thing that was done.

Disks stay pinned with the argument `pins` false.
"""

UNPIN = "x-snapproof-unpin"
"""Command to the guard: let go of pinned disks, and change nothing else."""

RESTORE_COPY = "x-snapproof-restore-copy"
"""Command to the guard: have libvirt restore the save image `image`, paused, within `seconds`; the domain in
it has the name `name`.
"""

END_COPY = "x-snapproof-end-copy"
"""Command to the guard: end that domain; returns whether it was there."""

WENT_ON = "the guest has gone on since it was stopped"
"""Why the guard refuses `migrate`."""

DESCRIPTOR_NAME = "snapproof-save"
"""Name of the descriptor that QEMU is given for the file of the snapshot."""

CORE_NAME = "snapproof-core"
"""Name of the descriptor that QEMU is given for its dump of guest memory."""

_OUR_ID = "snapproof-guard"
_ANSWER_SECONDS = 60.0
_GREETING_SECONDS = 10.0
_RETRY_SECONDS = 1.0

QEMU_GONE = 3
"""Exit code of a guard whose QEMU has ended."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What a guard is told to do.

    Attributes:
        socket: path of QEMU's QMP socket, "" for a domain.
        max_stop: seconds after which a guest that was stopped through the guard is continued.
        before: what the VM was like, from a guard that was lost, whose work this one takes over; None for a
            guard that looks itself.
        domain: the fields of a `Domain` of libvirt, None for a socket.
        copy: name of the domain that a guard which was lost may have had restored, "" for none.
    """

    socket: str
    max_stop: float
    before: dict[str, Any] | None = None
    domain: dict[str, str] | None = None
    copy: str = ""

    def to_json(self) -> str:
        """Return it as an argument of the guard."""
        return json.dumps(dataclasses.asdict(self))


class Guard:
    """Passes QMP on between our process and QEMU, and keeps the ledger."""

    def __init__(self, client: socket.socket, monitor: Monitor, order: Order) -> None:
        """Look at the VM.

        Raises:
            Gone: QEMU has ended.
        """
        self._client: socket.socket | None = client
        self._monitor = monitor
        self._number = 0
        self._answers: dict[str, Message] = {}
        self._stopped_at: float | None = None
        self._max_stop = order.max_stop
        self._commands = MessageSplitter()
        self._descriptors: list[int] = []
        self._told, self._went_on = "", False
        self.ledger = Ledger(Before.look(self.ask) if order.before is None else Before(**order.before))
        self.ledger.copy = order.copy
        if order.before is not None:
            self.ledger.suspect_everything((DESCRIPTOR_NAME, CORE_NAME))

    def serve(self) -> bool:
        """Serve our process until it is gone, and put the VM back; return whether QEMU still ran."""
        self._answer(self._monitor.greeting)
        try:
            while self._client is not None:
                client = self._client.fileno()
                readable = select.select([client, self._monitor.fileno()], [], [], self._patience())[0]
                if self._monitor.fileno() in readable:
                    self._take_messages()
                if client in readable:
                    self._take_commands()
                self._limit_stop()
            self._finish()
        except Gone:
            say("QEMU has ended.")
            return False
        finally:
            self._end_copy()
        return True

    def _finish(self) -> None:
        """Put the VM back as it was, and do not leave a guest stopped that QEMU refuses to continue now."""
        self.put_back()
        while True:
            try:
                if not still_stopped(self.ledger, self.ask):
                    return
                go_on(self.ledger, self.ask, say)
            except Refused as refusal:
                self._say_once(f"QEMU refuses to continue the guest, which is tried on: {refusal}.")
                time.sleep(_RETRY_SECONDS)
            else:
                self.put_back()

    def _say_once(self, sentence: str) -> None:
        if sentence != self._told:
            self._told = sentence
            say(sentence)

    def put_back(self, pins: bool = True) -> list[str]:
        """Put the VM back as it was; return and log a sentence for each thing that was done."""
        done: list[str] = []

        def note(sentence: str) -> None:
            done.append(sentence)
            say(sentence)

        put_back(self.ledger, self.ask, note, pins)
        return done

    def _unpin(self) -> Message:
        """Let go of pinned disks and return the answer to the command."""
        try:
            unpin(self.ledger, self.ask, say)
            close_descriptors(self.ledger, self.ask, say)
        except Refused as refusal:
            return {"error": {"class": "GenericError", "desc": str(refusal)}}
        return {"return": {}}

    def _restore_copy(self, name: str, image: str, seconds: float) -> Message:
        """Have libvirt restore a save image, and return the answer to the command."""
        if not isinstance(self._monitor, VirshMonitor):
            return {"error": {"class": "GenericError", "desc": "it is no domain of libvirt"}}
        self.ledger.copy = name
        if words := self._monitor.restore(image, seconds):
            return {"error": {"class": "GenericError", "desc": words}}
        return {"return": {}}

    def _end_copy(self) -> bool:
        """End the copy of the domain, if there may be one; return whether it was there."""
        name, self.ledger.copy = self.ledger.copy, ""
        if not name or not isinstance(self._monitor, VirshMonitor) or not self._monitor.destroy(name):
            return False
        say(f"The domain '{name}' was ended.")
        return True

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command of the guard's own, and return its result; pass on what else arrives meanwhile.

        Raises:
            Refused: QEMU answers with an error.
            Gone: it has ended. One that does not answer is waited for.
        """
        self._number += 1
        name = f"{_OUR_ID}#{self._number}"
        self._send({"execute": command, "arguments": arguments, "id": name})
        while name not in self._answers:
            if select.select([self._monitor.fileno()], [], [], _ANSWER_SECONDS)[0]:
                self._take_messages()
            else:
                self._say_once(f"QEMU has not answered '{command}' for {_ANSWER_SECONDS:g} s; it is awaited.")
        answer = self._answers.pop(name)
        if "error" in answer:
            raise Refused(str(answer["error"].get("desc", "")).rstrip("."))
        return answer["return"]

    def _send(self, message: Message, descriptors: list[int] | None = None) -> None:
        try:
            self._monitor.send(message, descriptors or [])
        except OSError as error:
            raise Gone from error

    def _patience(self) -> float:
        """Return how long nothing need be done, in seconds."""
        if self._stopped_at is None:
            return 1.0
        return max(0.0, self._stopped_at + self._max_stop - time.monotonic())

    def _limit_stop(self) -> None:
        if self._stopped_at is None or time.monotonic() < self._stopped_at + self._max_stop:
            return
        self._say_once(f"The guest has been stopped for {self._max_stop:.1f} s, the limit; it is continued.")
        self._stopped_at = None
        try:
            go_on(self.ledger, self.ask, say)
        except Refused as refusal:
            say(f"QEMU refuses to continue the guest, which is tried on: {refusal}.")
            self._stopped_at = time.monotonic() - self._max_stop + _RETRY_SECONDS

    def _take_messages(self) -> None:
        try:
            messages = self._monitor.receive()
        except EOFError as error:
            raise Gone from error
        for message in messages:
            name = message.get("id")
            if isinstance(name, str) and name.startswith(_OUR_ID):
                self._answers[name] = message
                continue
            if message.get("event") == "RESUME":
                self._stopped_at = None
                self._went_on = self._went_on or self.ledger.stands
                self.ledger.resumed()
            if message.get("event") == EVENTS_LOST:
                # A RESUME may have been among them.
                self._went_on = self._went_on or self.ledger.stands
            self._answer(message)

    def _take_commands(self) -> None:
        if self._client is None:
            return
        try:
            commands, descriptors = receive_commands(self._client, self._commands)
        except EOFError:
            self._lose_client()
            return
        self._descriptors += descriptors
        for command in commands:
            self._take_command(command)

    def _take_command(self, command: Message) -> None:
        name = str(command.get("execute", ""))
        own: dict[str, Any] = {"id": command["id"]} if "id" in command else {}
        if name == "qmp_capabilities":
            self._answer({"return": {}, **own})
            return
        if name == PUT_BACK:
            pins = bool((command.get("arguments") or {}).get("pins", True))
            self._answer({"return": self.put_back(pins), **own})
            return
        if name == UNPIN:
            self._answer({**self._unpin(), **own})
            return
        if name == RESTORE_COPY:
            arguments = command.get("arguments") or {}
            texts = str(arguments["name"]), str(arguments["image"])
            answer = self._restore_copy(*texts, float(arguments["seconds"]))
            self._answer({**answer, **own})
            return
        if name == END_COPY:
            self._answer({"return": self._end_copy(), **own})
            return
        if name == "stop":
            self._went_on = False
        if name == "migrate" and self._went_on:
            # T0 would be later than the golden image.
            close_all(self._descriptors)
            self._descriptors = []
            self._answer({"error": {"class": "GenericError", "desc": WENT_ON}, **own})
            return
        self.ledger.note(name, command.get("arguments") or {})
        if name == "stop" and self.ledger.before.state == "running":
            self._stopped_at = time.monotonic()
        descriptors, self._descriptors = self._descriptors, []
        try:
            self._send(command, descriptors)
        finally:
            close_all(descriptors)

    def _answer(self, message: Message) -> None:
        if self._client is None:
            return
        try:
            self._client.sendall((json.dumps(message) + "\r\n").encode())
        except OSError:
            self._lose_client()

    def _lose_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def say(sentence: str) -> None:
    """Log a sentence with the time."""
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')} {sentence}", file=sys.stderr, flush=True)


def _tell(content: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        print(json.dumps(content), flush=True)


def open_monitor(order: Order) -> Monitor:
    """Connect to the monitor that an order names; raises MonitorUnusable."""
    if order.domain is None:
        return SocketMonitor(Path(order.socket), _GREETING_SECONDS)
    return VirshMonitor(Domain(**order.domain), say)


def main(arguments: list[str]) -> int:
    """Guard a VM; return 0 if it was put back, QEMU_GONE if QEMU has ended."""
    # Our process gets these for us too, and then asks for, or leads to, what is put back.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    client = socket.socket(fileno=int(arguments[0]))
    order = Order(**json.loads(arguments[1]))
    try:
        monitor = open_monitor(order)
    except MonitorUnusable as error:
        _tell({"unusable": str(error)})
        return 2
    try:
        guard = Guard(client, monitor, order)
    except (Gone, Refused) as error:
        _tell({"unusable": f"QEMU did not say what it is like now, so nothing is done to it: {error}."})
        return 2
    _tell({"pid": monitor.pid, "before": dataclasses.asdict(guard.ledger.before)})
    runs = guard.serve()
    monitor.close()
    return 0 if runs else QEMU_GONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
