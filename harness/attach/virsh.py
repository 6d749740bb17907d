"""Reaches the monitor of a libvirt domain by `virsh`, for the guard: commands, descriptors and events.

libvirt holds the only connection to the domain's monitor, and passes commands on. One that libvirt does not
pass on, since it is just restarted or does not answer, is sent again until it does or QEMU has ended.

Nothing here imports more than the standard library, so that the guard starts soon and stays small.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.attach.monitor import Message, MessageSplitter, MonitorUnusable, close_all
from harness.attach.process import find_by_uuid, start_time

EVENTS_LOST = "X_SNAPPROOF_EVENTS_LOST"
"""Event of our own: events of QEMU may have been lost, since libvirt was not there to pass them on."""

_PIECE = 1 << 16
_RETRY_SECONDS = 0.5
_ANSWER_SECONDS = 60.0
# libvirt may begin to restore a domain just after the virsh that asked for it was killed.
_LATE_SECONDS = 2.0
# libvirt 9.0 and 11.3 tools/virsh-domain.c, virshQemuMonitorEventCallback... `event NAME at S.US for domain`.
_EVENT = re.compile(r"event (?P<name>\S+) at (?P<s>\d+)\.(?P<us>\d+) for domain '.*?': (?P<data>.*)")
# Its words about a domain that has no QEMU: src/libvirt-domain.c and virshLookupDomain().
_NO_DOMAIN = ("failed to get domain", "Domain not found")
_NO_QEMU = ("domain is not running", *_NO_DOMAIN)


@dataclass(frozen=True)
class Domain:
    """A domain of a libvirt.

    Attributes:
        name: its name, UUID or number.
        virsh: the program.
        uri: of the connection, "" for virsh's default.
    """

    name: str
    virsh: str = "virsh"
    uri: str = ""

    def command(self, *words: str) -> list[str]:
        """Return the command line of a command of virsh."""
        return [self.virsh, "--quiet", *(("--connect", self.uri) if self.uri else ()), *words]

    def by_hand(self, words: str) -> str:
        """Return how commands of the human monitor are typed with virsh."""
        uri = f" -c {self.uri}" if self.uri else ""
        return f"(with \"virsh{uri} qemu-monitor-command {self.name} --hmp 'COMMAND'\") {words}"

    def ask(self, *words: str) -> str:
        """Return what a command of virsh prints.

        Raises:
            MonitorUnusable: it cannot be run, or ended with an error, whose words are in the sentence.
        """
        try:
            done = _run(self.command(*words))
        except subprocess.TimeoutExpired as error:
            raise MonitorUnusable(
                f"'virsh {words[0]}' has not ended for {_ANSWER_SECONDS:g} s: does libvirtd hang?"
            ) from error
        except OSError as error:
            raise MonitorUnusable(
                f"'{self.virsh}' cannot be run: {error.strerror}. Install libvirt's client programs "
                "(libvirt-clients), or name virsh with --virsh."
            ) from error
        if done.returncode:
            raise MonitorUnusable(f"libvirt does not answer 'virsh {words[0]}': {_words(done.stderr)}.")
        return done.stdout.strip()


class VirshMonitor:
    """The monitor of a domain; a `Monitor`."""

    def __init__(self, domain: Domain, say: Callable[[str], None]) -> None:
        """Connect.

        Args:
            domain: as the user names it.
            say: called with a sentence when libvirt does not pass a command on.

        Raises:
            MonitorUnusable: libvirt does not answer, or the domain does not run.
        """
        number = domain.ask("domid", domain.name)
        if not number.isdigit():
            raise MonitorUnusable(
                f"The domain '{domain.name}' does not run; start it, and wait until its guest is up."
            )
        # A domain that is started anew has another number, so no other QEMU is ever meant by it.
        self._domain = Domain(number, domain.virsh, domain.uri)
        self._say, self._told = say, ""
        self.pid = find_by_uuid(domain.ask("domuuid", number))
        self._start = start_time(self.pid)
        self._ours, self._theirs = socket.socketpair()
        self._messages = MessageSplitter()
        self._writing = threading.Lock()
        self._children: set[subprocess.Popen[str]] = set()
        self._closed = False
        self._commands: queue.Queue[tuple[Message, tuple[int, ...]] | None] = queue.Queue()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._pass_events, self._work)]
        self._threads[0].start()
        answer = self._asked({"execute": "query-version"}, ())
        if answer is None or "return" not in answer:
            self.close()
            raise MonitorUnusable(f"The QEMU of the domain '{domain.name}' ended, or did not answer.")
        self.greeting: Message = {"QMP": {"version": answer["return"], "capabilities": []}}
        self._threads[1].start()

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something."""
        return self._ours.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Hand a command over, with copies of descriptors, to be sent after those before it."""
        self._commands.put((message, tuple(os.dup(descriptor) for descriptor in descriptors)))

    def receive(self) -> list[Message]:
        """Return the messages that have arrived; raises EOFError if QEMU has ended."""
        data = self._ours.recv(_PIECE)
        if not data:
            raise EOFError
        return self._messages.feed(data)

    def restore(self, image: str, seconds: float) -> str:
        """Have libvirt restore a save image as a paused domain; return why it does not, "" if it does."""
        command = self._domain.command("restore", image, "--paused")
        child = self._started([*_with_us(), *command], subprocess.PIPE)
        try:
            _output, errors = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return f"it has not ended for {seconds:g} s"
        finally:
            self._children.discard(child)
        return _words(errors) if child.returncode else ""

    def destroy(self, name: str) -> bool:
        """End a domain that may not be there (any more); return whether it was.

        libvirt is asked until it says that there is none: it may be away, or just begin to restore it.
        """
        was_there, end = False, time.monotonic() + _LATE_SECONDS
        while True:
            try:
                done = _run(self._domain.command("destroy", name))
            except (OSError, subprocess.TimeoutExpired):
                pass
            else:
                was_there = was_there or not done.returncode
                gone = any(words in done.stderr for words in _NO_DOMAIN)
                if gone and (was_there or time.monotonic() >= end):
                    return was_there
                if done.returncode and not gone:
                    self._say_once(f"libvirt does not end the domain '{name}': {_words(done.stderr)}.")
            time.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """End all programs that were started."""
        self._closed = True
        self._commands.put(None)
        for child in list(self._children):
            child.kill()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_ANSWER_SECONDS)
        self._ours.close()
        self._theirs.close()

    def _work(self) -> None:
        while (task := self._commands.get()) is not None and not self._closed:
            message, descriptors = task
            try:
                answer = self._asked(message, descriptors)
            finally:
                close_all(descriptors)
            if answer is None:
                with contextlib.suppress(OSError):
                    self._theirs.shutdown(socket.SHUT_WR)
                return
            answer.pop("id", None)
            self._deliver(answer | ({"id": message["id"]} if "id" in message else {}))

    def _asked(self, message: Message, descriptors: Sequence[int]) -> Message | None:
        """Have a command passed on and return QEMU's answer, None if QEMU has ended."""
        # libvirt gives commands numbers of its own.
        text = json.dumps({key: value for key, value in message.items() if key != "id"})
        passed = [word for number in descriptors for word in ("--pass-fds", str(number))]
        command = self._domain.command("qemu-monitor-command", self._domain.name, *passed, text)
        while not self._closed and self._runs():
            output, errors = self._output(command, descriptors)
            found = MessageSplitter().feed(output.encode())
            if found:
                return found[0]
            if not self.pid and any(words in errors for words in _NO_QEMU):
                return None
            if not self._closed:
                self._say_once(f"libvirt does not pass '{message['execute']}' on: {_words(errors)}.")
                time.sleep(_RETRY_SECONDS)
        return None

    def _runs(self) -> bool:
        return not self.pid or start_time(self.pid) == self._start

    def _output(self, command: list[str], descriptors: Sequence[int]) -> tuple[str, str]:
        child = self._started(command, subprocess.PIPE, descriptors)
        try:
            return child.communicate()
        finally:
            self._children.discard(child)

    def _started(
        self, command: list[str], errors: int, descriptors: Sequence[int] = ()
    ) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            pass_fds=descriptors,
            env={**os.environ, "LC_ALL": "C"},
        )
        self._children.add(child)
        if self._closed:
            child.kill()
        return child

    def _pass_events(self) -> None:
        """Pass QEMU's events on, as long as it runs."""
        command = self._domain.command("qemu-monitor-event", self._domain.name, "--loop")
        while not self._closed and self._runs():
            child = self._started([*_with_us(), *command], subprocess.DEVNULL)
            assert child.stdout is not None, "it is a pipe"
            for line in child.stdout:
                if event := parse_event(line):
                    self._deliver(event)
            child.wait()
            self._children.discard(child)
            # At once, before another command can be passed on, and once more before it begins anew.
            for wait in (_RETRY_SECONDS, 0.0):
                if not self._closed:
                    now = {"seconds": int(time.time()), "microseconds": 0}
                    self._deliver({"event": EVENTS_LOST, "timestamp": now})
                    time.sleep(wait)

    def _deliver(self, message: Message) -> None:
        with self._writing, contextlib.suppress(OSError):
            self._theirs.sendall((json.dumps(message) + "\n").encode())

    def _say_once(self, sentence: str) -> None:
        if sentence != self._told:
            self._told = sentence
            self._say(sentence)


def parse_event(line: str) -> Message | None:
    """Return QEMU's event in a line of `virsh qemu-monitor-event`, None if there is none in it."""
    match = _EVENT.match(line)
    if match is None:
        return None
    event: Message = {
        "event": match["name"],
        "timestamp": {"seconds": int(match["s"]), "microseconds": int(match["us"])},
    }
    with contextlib.suppress(ValueError):
        event["data"] = json.loads(match["data"])
    return event


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_ANSWER_SECONDS,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )


def _with_us() -> list[str]:
    """Return what has the kernel end a program with the thread that started it, also where we are killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _words(errors: str) -> str:
    """Return what virsh says in one line, without its `error:` and without a full stop."""
    lines = [line.removeprefix("error: ").strip() for line in errors.splitlines() if line.strip()]
    return "; ".join(lines).rstrip(".") or "it gives no reason"
