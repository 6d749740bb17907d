"""Program that runs on a host (Python 3.9, standard library): starts a saved guest, saves it, reports JSON.

Standard input holds the order, one JSON object:

    argv        QEMU's command line; "@QMP" in it stands for the number of our QMP socket
    environment variables for QEMU alone
    vmstate     path of the saved guest
    kinds       command lines of QEMUs without a guest, by the kind of their memory
    counters    guest-physical addresses of the writers' step counters
    stalls      guest-physical addresses of the writers' histograms, each of "buckets" words
    saves       the saves, in order: {"flow": "background" | "stopped" | "balanced", "sink": path}, with
                "steps" if the sink is to be slow until each writer has completed so many after T0;
                "balanced" is a background save while the kernel moves guest RAM between NUMA nodes, and is
                left out after a refusal; or, while the host's kernel acts on guest RAM, {"flow": "split" |
                "soft-offline" | "poisoned", "sink": path, "golden": path}, where "golden" receives RAM at T0
    disturb     for these: {"ram": bytes of RAM, "mailbox": guest-physical addresses and codes of commands,
                "holes": numbers of data pages}
    seconds     limit for each step

Each line of standard output is a JSON object with "event" and "seconds" since the start; the last one is
"done", or "failed" with a sentence. A disturbed or balanced save that is not possible is "cannot". A refusal
of background snapshots is no failure.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from typing import Any

from tests_functional.hosts.on_host_balance import Balancing, CannotBalance
from tests_functional.hosts.on_host_memory import CannotAct, Disturbance, HostMemory, Mailbox
from tests_functional.hosts.on_host_qemu import (
    CAPABILITY,
    HostFailure,
    Qemu,
    Refused,
    Sink,
    tell,
)

_MORE_STEPS = 20
_ENDED = ("completed", "failed", "cancelled")
# Of a guest of 48 MiB, whose RAM is to be in large pages.
_LEAST_LARGE_BYTES = 16 << 20


class SavedGuest:
    """The guest in a QEMU, and the counters of its writers."""

    def __init__(self, qemu: Qemu, counters: list[int], stalls: list[int], buckets: int) -> None:
        self.qemu = qemu
        self._counters = counters
        self._stalls = stalls
        self._buckets = buckets
        # Whether QEMU has taken background snapshots.
        self._background = False

    def load(self, vmstate: str) -> None:
        """Load the guest and let it run. On a disk, QEMU does not read the zeros after the stream."""
        self.qemu.execute("migrate-incoming", uri=f"exec:cat {shlex.quote(vmstate)}")
        self.qemu.wait(lambda: self.qemu.status() != "inmigrate", "The load of the saved guest")
        if self.qemu.status() == "paused":
            self.qemu.execute("cont")
        self.goes_on("after it was loaded")

    def steps(self) -> list[int]:
        """Return the step counter of each writer."""
        return [self._words(address, 1)[0] for address in self._counters]

    def stalls(self) -> list[int]:
        """Return the histogram of write times of all writers so far, in the agent's buckets."""
        each = [self._words(address, self._buckets) for address in self._stalls]
        return [sum(counts) for counts in zip(*each)]

    def goes_on(self, when: str) -> None:
        """Wait until each writer has completed more steps."""
        before = self.steps()
        self.qemu.wait(
            lambda: min(now - then for now, then in zip(self.steps(), before)) >= _MORE_STEPS,
            f"{_MORE_STEPS} more steps of each writer {when}",
        )

    def save(self, flow: str, path: str, wanted: int = 0) -> None:
        """Save the guest by one flow, and check that it goes on.

        Args:
            flow: "background" or "stopped".
            path: the file or disk for the stream.
            wanted: steps of each writer after T0 that the sink waits for, in a flow in which the guest runs.
        """
        if flow == "stopped" or self._accepted(flow):
            tell("saved", flow=flow, **self._save(flow, path, wanted))

    def save_balanced(self, path: str) -> None:
        """Save the guest in the background while the kernel moves its RAM between NUMA nodes."""
        flow = "balanced"
        if not self._background:
            return
        try:
            balancing = Balancing(self.qemu.process.pid)
        except CannotBalance as reason:
            tell("cannot", flow=flow, text=str(reason))
            return
        self.qemu.capability(True)
        with balancing:
            found = self._save(flow, path, 0)
        tell("saved", flow=flow, moved=balancing.moved, **found)

    def _accepted(self, flow: str) -> bool:
        """Switch background snapshots on; report why not, and return False, if QEMU does not take that."""
        qemu = self.qemu
        known = qemu.execute("query-migrate-capabilities")
        if CAPABILITY not in [entry["capability"] for entry in known]:
            tell("unknown", flow=flow)
            return False
        try:
            qemu.capability(True)
        except Refused as refusal:
            self.goes_on("after the refusal")
            tell("refused", flow=flow, text=str(refusal), trace=qemu.trace(), state=qemu.status())
            return False
        self._background = True
        return True

    def _save(self, flow: str, path: str, wanted: int) -> dict[str, Any]:
        """Save the guest, check that it goes on, and return the facts for the report."""
        qemu = self.qemu
        sink, mark = Sink(path, slow=wanted > 0), len(qemu.events)
        before, stalls = self.steps(), self.stalls()
        if flow == "stopped":
            qemu.execute("stop")
        try:
            self._start(sink.uri)
            meanwhile = self._steps_after_t0(wanted, mark) if wanted else 0
            sink.hurry()
            answer = self._completed()
        finally:
            after, stalls_after = self.steps(), self.stalls()
            if flow == "stopped":
                qemu.execute("cont")
        sink.close(qemu.seconds)
        qemu.wait(lambda: qemu.status() == "running", "That the guest runs again after the save")
        self.goes_on("after the save")
        if flow != "stopped":
            qemu.capability(False)
        return {
            "bytes": sink.bytes,
            "migrate": answer,
            "events": qemu.events[mark:],
            "steps_before": before,
            "steps_completed": after,
            "steps_meanwhile": meanwhile,
            "stalls": [now - then for now, then in zip(stalls_after, stalls)],
            "trace": qemu.trace(),
        }

    def save_disturbed(self, order: dict[str, Any], save: dict[str, str]) -> None:
        """Save the guest as it is when it is stopped, while the host's kernel acts on its RAM."""
        qemu, flow = self.qemu, save["flow"]
        memory = HostMemory(qemu, order["ram"])
        try:
            if flow == "split":
                memory.require_large(_LEAST_LARGE_BYTES)
            self._save_disturbed(order, save, memory)
        except CannotAct as reason:
            tell("cannot", flow=flow, text=str(reason), blames_host=reason.blames_host)
        finally:
            memory.close()

    def _save_disturbed(self, order: dict[str, Any], save: dict[str, str], memory: HostMemory) -> None:
        qemu, flow = self.qemu, save["flow"]
        sink, mark, before = Sink(save["sink"], slow=True), len(qemu.events), self.steps()
        mailbox = Mailbox(qemu, memory, order["mailbox"])
        acts = Disturbance(memory, mailbox, lambda: self._migration()["status"] == "active")
        qemu.capability(True)
        qemu.execute("stop")
        memory.copy(save["golden"])
        self._start(sink.uri)
        qemu.wait(lambda: self._migration()["status"] != "setup", "The start of the save")
        # QEMU 6.0 to 8.1 run a stopped guest on by themselves.
        if qemu.status() != "running":
            qemu.execute("cont")
        try:
            acts.do(flow, order["holes"])
        finally:
            sink.hurry()
            ended = self._end_of_disturbed(flow)
            sink.close(qemu.seconds)
            if ended is not None:
                after = self.steps()
                qemu.capability(False)
        if ended is None:
            code = qemu.process.wait(qemu.seconds)
            tell("ended", flow=flow, exit_code=code, bytes=sink.bytes, log=_tail(qemu))
            return
        self.goes_on("after the save")
        if acts.holes:
            mailbox.flip_holes(order["holes"])
        tell(
            "saved",
            flow=flow,
            bytes=sink.bytes,
            migrate=ended,
            events=qemu.events[mark:],
            steps_before=before,
            steps_completed=after,
            acts=acts.facts(),
        )

    def _end_of_disturbed(self, flow: str) -> dict[str, Any] | None:
        """Wait for the end of the save; return None if QEMU has ended, which a poisoned page makes it do."""
        try:
            return self._completed()
        except HostFailure:
            if flow != "poisoned" or self.qemu.process.poll() is None:
                raise
            return None

    def _steps_after_t0(self, wanted: int, mark: int) -> int:
        """Wait until each writer has completed so many steps after T0; return how many before the end."""
        found = 0

        def active() -> bool:
            return self._migration()["status"] not in _ENDED

        def resumed() -> bool:
            return not active() or any(event["event"] == "RESUME" for event in self.qemu.events[mark:])

        def enough() -> bool:
            nonlocal found
            least = min(now - then for now, then in zip(self.steps(), before))
            # Asked for afterwards, so that these steps came before the end of the save.
            if not active():
                return True
            found = least
            return found >= wanted

        self.qemu.wait(resumed, "The start of the save")
        before = self.steps()
        self.qemu.wait(enough, f"{wanted} steps of each writer during the save")
        return found

    def _words(self, address: int, number: int) -> list[int]:
        command = f"xp /{number}gx {address:#x}"
        text = self.qemu.execute("human-monitor-command", **{"command-line": command})
        words = [int(word, 16) for line in text.splitlines() for word in line.partition(":")[2].split()]
        if len(words) != number:
            raise HostFailure(f"QEMU shows {len(words)} words of guest memory where {number} were asked for.")
        return words

    # This program runs on hosts without the rest of the project, so it cannot use harness/qemu/migration.py.
    def _start(self, uri: str) -> None:
        # No limit but the sink's; a 32-bit QEMU accepts no larger value.
        self.qemu.execute("migrate-set-parameters", **{"max-bandwidth": (1 << 32) - 1})
        self.qemu.execute("migrate", uri=uri)

    def _migration(self) -> dict[str, Any]:
        found: dict[str, Any] = self.qemu.execute("query-migrate")
        return found

    def _completed(self) -> dict[str, Any]:
        answer: dict[str, Any] = {}

        def over() -> bool:
            answer.update(self._migration())
            return answer.get("status") in _ENDED

        self.qemu.wait(over, "The end of the save")
        if answer["status"] != "completed":
            why = answer.get("error-desc", "QEMU gives no reason")
            raise HostFailure(f"The save {answer['status']}: {why}.")
        return answer


def ask_kind(name: str, argv: list[str], seconds: float) -> None:
    """Report whether QEMU accepts the capability for a guest with such memory."""
    try:
        qemu = Qemu(argv, {}, seconds)
    except HostFailure as failure:
        tell("kind", kind=name, available=False, text=str(failure), trace=[])
        return
    try:
        qemu.capability(True)
        text = ""
    except Refused as refusal:
        text = str(refusal)
    tell("kind", kind=name, available=True, text=text, trace=qemu.trace())
    qemu.end()


def main() -> int:
    """Carry out the order; return 0 if the report says how it ended."""
    order = json.loads(sys.stdin.read())
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    qemu = None
    try:
        for name, argv in order["kinds"].items():
            ask_kind(name, argv, order["seconds"])
        qemu = Qemu(order["argv"], order["environment"], order["seconds"])
        version = qemu.execute("query-version")
        tell("started", version=version)
        guest = SavedGuest(qemu, order["counters"], order["stalls"], order["buckets"])
        guest.load(order["vmstate"])
        tell("loaded", steps=guest.steps())
        for save in order["saves"]:
            if "golden" in save:
                guest.save_disturbed(order["disturb"], save)
            elif save["flow"] == "balanced":
                guest.save_balanced(save["sink"])
            else:
                guest.save(save["flow"], save["sink"], save.get("steps", 0))
        # A save that QEMU did not survive was the last one.
        ended = qemu.process.poll()
        tell("done", exit_code=qemu.end() if ended is None else ended)
    except Refused as refusal:
        tell("failed", sentence=f"QEMU refused: {refusal}", blames_qemu=True, expired=False, log=_tail(qemu))
    except HostFailure as failure:
        tell(
            "failed",
            sentence=str(failure),
            blames_qemu=failure.blames_qemu,
            expired=failure.expired,
            log=_tail(qemu),
        )
    finally:
        if qemu is not None:
            qemu.process.kill()
    return 0


def _tail(qemu: Qemu | None) -> list[str]:
    return qemu.log()[-20:] if qemu else []


if __name__ == "__main__":
    sys.exit(main())
