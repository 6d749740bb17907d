"""Saves a guest whose devices have something in flight at T0, and looks what becomes of it.

Source and restored guest must each deliver what was in flight at T0 once and in order, and the restored guest
nothing of after T0. Stop-and-save, during which the guest stands still, is the control.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from harness.deadline import Deadline
from harness.errors import NotApplicable, SnapproofError, SubjectFailed
from harness.linux.socket_folder import socket_folder
from harness.qemu.machine import Machine, known_pid
from harness.qemu.qmp import CommandRefused
from tests_functional.in_flight.device_queue import broken_devices
from tests_functional.in_flight.disks import log_of, make_disk
from tests_functional.in_flight.judge import Expected, judge_lost_source, judge_stream
from tests_functional.in_flight.kinds import STREAM_KINDS, StreamKind
from tests_functional.in_flight.numbers import Numbers
from tests_functional.in_flight.packets import peer_socket
from tests_functional.in_flight.pipes import pipes
from tests_functional.in_flight.stream import FarEnd, InFlight, Stream
from tests_functional.lib.build_outcome import Cycle, outcome_of, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, resting, writing_guest
from tests_functional.lib.driven import require_driven
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.patience import MOST_SECONDS, PatientDeadline
from tests_functional.lib.refused_save import judge_refused_save
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.oracles.o6_host.host_state import capture_host_state
from validators.verdict import CheckResult

_FILL_SECONDS, _DELIVER_SECONDS = 30.0, 8.0
_STALLS = (
    "QEMU holds up the vCPUs while a device waits for a protected page, and this test has it write to one."
)

RESTORED_CHECK = "restored-in-flight"
"""Name of the check of what arrives in the restored guest."""


def undamaged(_machine: Machine) -> None:
    """Damage nothing."""


Faults = Callable[[Numbers], Sequence[int]]
"""Return what is sent to the restored guest in place of the items that it is judged by."""


def in_flight(name: str) -> Callable[[Run], Outcome]:
    """Return the scenario for one of STREAM_KINDS."""
    return lambda run: _with(run, name, STREAM_KINDS[name])


def _with(run: Run, name: str, kind: StreamKind) -> Outcome:
    begun = time.monotonic()
    require_stream(run, kind)
    cycles = []
    with (
        far_ends(run, kind, 1 + len(kind.flows)) as (here, *there),
        source_with(run, kind, here) as (source, stream),
    ):
        for number, (flow, far) in enumerate(zip(kind.flows, there, strict=True)):
            label = f"{name}/{number + 1:02d}-{flow.label}"
            one = Passage(run, kind, Numbers.of(1 + number, kind.counts), far)
            try:
                cycles.append(one.judge(source, stream, flow, label))
            except CommandRefused as refusal:
                if cycles or not kind.may_refuse:
                    raise
                seconds = time.monotonic() - begun
                return judge_refused_save(run, source, kind.device, refusal.reason, label, seconds)
            except SubjectFailed as error:
                if source.guest.machine.alive():
                    raise
                checks = [check for cycle in cycles for check in cycle.verdict.checks]
                checks.append(judge_lost_source(label, error))
                return outcome_of(run, checks, time.monotonic() - begun, "")
        source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun, compare_stuns=False)


def require_stream(run: Run, kind: StreamKind) -> None:
    """Check that guest and QEMU can have the stream.

    Raises:
        NotApplicable: they cannot.
    """
    require_driven(run)
    if lacking := kind.lacking(run.stack.executable):
        raise NotApplicable(f"This QEMU has no {lacking}.")


@contextmanager
def far_ends(run: Run, kind: StreamKind, count: int) -> Iterator[list[FarEnd]]:
    """Yield the far ends of the source and of the restored guests."""
    with socket_folder() as folder, ExitStack() as opened:
        found = []
        for number in range(count):
            place = folder / str(number)
            place.mkdir()
            disk = run.folder / f"disk-{number}"
            for path in (disk, log_of(disk)):
                opened.callback(path.unlink, missing_ok=True)
            make_disk(disk, kind.disk_bytes)
            ends = opened.enter_context(pipes(place / "pipe")), opened.enter_context(peer_socket(place))
            found.append(FarEnd(place, *ends, place / "board", disk, number > 0))
        yield found


@contextmanager
def source_with(run: Run, kind: StreamKind, far: FarEnd) -> Iterator[tuple[Source, Stream]]:
    """Yield a writing guest and its stream, which has carried items already."""
    with writing_guest(run.with_arguments(kind.arguments(far))) as booted:
        machine = booted.guest.machine
        stream = kind.stream(machine, far)
        stream.start()
        first, limit = Numbers.of(0, kind.counts), Deadline(_FILL_SECONDS)
        stream.fill(first, limit)
        stream.deliver(len(first.in_flight), limit)
        # A device opens more files when it is first used.
        yield replace(booted, before=replace(booted.before, host=capture_host_state(machine))), stream


@dataclass(frozen=True)
class Passage:
    """One snapshot of a guest with something in flight.

    Attributes:
        run: the test's.
        kind: of the stream.
        numbers: those of this snapshot.
        far: the restored guest's far end.
        planted: what is sent to the restored guest in place of `numbers.restored`; None for just that.
        damage: called with the restored guest's QEMU before anything can arrive.
    """

    run: Run
    kind: StreamKind
    numbers: Numbers
    far: FarEnd
    planted: Faults | None = None
    damage: Callable[[Machine], None] = undamaged

    def judge(self, source: Source, stream: Stream, flow: Flow, label: str) -> Cycle:
        """Have items in flight, save the guest, restore it, and judge what arrives in both."""
        run, numbers = self.run, self.numbers
        pending = stream.fill(numbers, run.deadline.at_most(_FILL_SECONDS))
        folder = run.folder / label
        folder.mkdir(parents=True)
        run.say(f"{label}: saving ({flow.value}).")
        items = [*numbers.in_flight, *numbers.source]
        patience = _patience(source.guest, self.kind)
        arrivals = _Arrivals(stream, items, numbers.source, patience, len(numbers.in_flight))

        def go_on() -> None:
            if self.kind.delivered_while_saving:
                arrivals.deliver()
            if self.kind.sent_while_saving:
                arrivals.send()
            if self.kind.sent_while_saving and self.kind.delivered_while_saving:
                arrivals.deliver_sent()

        limit = run.deadline.at_most(SMALL_SAVE_SECONDS)
        acts = Acts(saving=go_on) if flow.background else Acts()
        snapshot = take(flow, source.guest, source.counters, folder, limit, acts)
        if not flow.background:
            arrivals.deadline = _patience(source.guest, self.kind)
        arrivals.finish()
        checks = [self._judge("source-in-flight", source.guest, arrivals, ())]
        checks += judge_source(source.guest, source.before)
        with resting(run.stack, source.guest.machine, checks):
            restoring = run.with_arguments(self.kind.arguments(self.far))

            def look(guest: Guest) -> list[CheckResult]:
                return [self._restored_goes_on(guest, pending)]

            return judge_cycle(restoring, source, snapshot, label, checks, look, _STALLS)

    def _restored_goes_on(self, guest: Guest, pending: InFlight) -> CheckResult:
        numbers = self.numbers
        stream = self.kind.stream(guest.machine, self.far)
        stream.resume(pending.position)
        self.damage(guest.machine)
        sent = numbers.restored if self.planted is None else self.planted(numbers)
        items = [*pending.restored, *numbers.restored]
        arrivals = _Arrivals(stream, items, sent, _patience(guest, self.kind), len(pending.restored))
        arrivals.finish()
        return self._judge(RESTORED_CHECK, guest, arrivals, numbers.source)

    def _judge(self, name: str, guest: Guest, arrivals: _Arrivals, of_source: Sequence[int]) -> CheckResult:
        """Judge what has arrived.

        Raises:
            HostTooBusy: something has not, and QEMU got too little processor time for that to be evidence.
        """
        numbers = self.numbers
        missing = set(arrivals.items).difference(arrivals.found)
        broken = broken_devices(guest.machine) if missing else []
        if missing and arrivals.deadline.expired and not broken and not self.kind.lossy:
            arrivals.deadline.require_granted(f"The arrival of {len(missing)} items")
        expected = Expected(
            arrivals.items,
            numbers.consumed,
            of_source,
            self.kind.ordered,
            numbers.in_flight if self.kind.lossy else (),
            broken,
        )
        return judge_stream(name, arrivals.found, expected, arrivals.error)


def _patience(guest: Guest, kind: StreamKind) -> PatientDeadline:
    """Return how long items are waited for; longer on a busy host, unless the kind may lose them anyway."""
    most = _DELIVER_SECONDS if kind.lossy else MOST_SECONDS
    return PatientDeadline(_DELIVER_SECONDS, known_pid(guest.machine), most)


@dataclass
class _Arrivals:
    """What arrives in one guest after T0.

    Attributes:
        stream: the guest's.
        items: what has to arrive.
        sent: what is sent after what is in flight.
        deadline: for all of it.
        in_flight: how many of `items` are in flight.
        found: what has arrived.
        error: why the stream did not go on.
    """

    stream: Stream
    items: Sequence[int]
    sent: Sequence[int]
    deadline: PatientDeadline
    in_flight: int
    found: list[int] = field(default_factory=list)
    error: SnapproofError | None = None
    _delivered: bool = False
    _sent: bool = False
    _sent_delivered: bool = False

    def deliver(self) -> None:
        """Let what is in flight arrive; and what was sent later, where that was."""
        self._delivered = True
        self._sent_delivered = self._sent
        self._arrive(self.in_flight + (len(self.sent) if self._sent else 0))

    def send(self) -> None:
        """Send more."""
        self._sent = True
        try:
            self.stream.send(self.sent, self.deadline)
        except SnapproofError as error:
            self.error = error
            # There is nothing to wait for.
            self._sent_delivered = True

    def deliver_sent(self) -> None:
        """Let what was sent arrive."""
        self._sent_delivered = True
        self._arrive(len(self.sent))

    def finish(self) -> None:
        """Do what was not done yet."""
        if not self._delivered:
            self.deliver()
        if not self._sent:
            self.send()
        if not self._sent_delivered:
            self.deliver_sent()

    def _arrive(self, count: int) -> None:
        try:
            self.found += self.stream.deliver(count, self.deadline)
        except SnapproofError as error:
            self.error = error
