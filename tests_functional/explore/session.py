"""Holds the guest of a list of steps and the save that goes on, and brings both in step with the model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from guest_images.agent.bare_agent import BareAgent
from guest_images.agent.counters import AgentCounters
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import HostTooBusy, NotApplicable, SnapproofError
from harness.linux.run_queue import LEAST_GRANTED, processor_time
from harness.qemu.machine import Machine
from harness.qemu.qapi_schema import QapiSchema, read_schema
from harness.qemu.ram import GoldenImage
from harness.qemu.spawned_machine import SpawnedMachine
from tests_functional.during_save.judge import without_files_of
from tests_functional.explore.guests import with_guest
from tests_functional.explore.model import CANCELLED, COMPLETED, FAILED, RUNNING, Model, Writers
from tests_functional.explore.sink import Sink, Speed
from tests_functional.explore.steps import GuestChoice
from tests_functional.lib.cycle import Source, writing_guest
from tests_functional.lib.guest import start_writers
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.lib.source_checks import baseline
from tests_functional.lib.time_limits import FILL_SECONDS
from tests_functional.refusals.migration_options import Settings, settings
from validators.checks import Problem, judged
from validators.oracles.o6_host.host_state import HostState, capture_host_state
from validators.verdict import CheckResult

QMP_SECONDS = 20.0
"""Within which QEMU has to answer a command, on a host that gives it processors."""

_STATE_SECONDS = 5.0
# A QEMU that hangs waits for no processor, and the little that it does has to wait on a busy host as well.
_LEAST_WAITED = 0.5
# QEMU 10.0 migration/savevm.c should_validate_capability(); mapped-ram is set by a flow.
_VALIDATED = ("x-ignore-shared",)
# Half a second of a slow sink.
_LEFT_BYTES = 4 << 20
# Of something that did not come in time.
_LATE = (
    Code.QMP_NO_ANSWER,
    Code.WAIT_EXPIRED,
    Code.GUEST_NO_ANSWER,
    Code.GUEST_WRONG_STATE,
    Code.SAVE_UNFINISHED,
    Code.SAVE_NOT_CLEANED_UP,
    Code.QMP_NO_EVENT,
)
_ANSWERS = "QEMU answers each command in time, and accepts or refuses it as it must."


@dataclass
class Save:
    """A background snapshot that has been begun.

    Attributes:
        number: of the save in its list, from 1.
        flow: LIVE, or one with a golden image.
        path: the file.
        sink: where it goes.
        opened: closes the sink.
        mark: position in QEMU's events from before it.
        before: steps of the writers from before it.
        after: their steps once each had written a page after T0; as `before` for a guest that stands still.
        golden: RAM at T0, None for a guest that ran.
        source: the guest and its writers at T0.
        touched: whether commands that may open something in QEMU were accepted since.
        arguments: what the QEMU of a restored guest is given for devices that were plugged in before.
        incoming: capabilities that restoring the file needs.
        overlap: whether the writers wrote while RAM was being saved.
        state_known: whether the guest's run state at T0 is known.
    """

    number: int
    flow: Flow
    path: Path
    sink: Sink
    opened: ExitStack
    mark: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    golden: GoldenImage | None
    source: Source
    touched: bool = False
    arguments: tuple[str, ...] = ()
    incoming: tuple[str, ...] = ()
    overlap: bool = True
    state_known: bool = True


@dataclass
class Session:
    """The guest and its QEMU, while a list of steps is taken.

    Attributes:
        run: the test's run, with the guest of the list.
        source: the guest with its writers.
        schema: of QEMU's commands.
        settings: the migration settings, as the steps have set them.
        host_before: the host's state from before the save that goes on.
        written: pattern of the writers, and the share of RAM that they fill.
        tampered: names of migration settings that a step has changed.
        guest: what the list asks for.
        booted_before: the number of the boot before the last reset, None without one.
        model: what guest and QEMU must be.
        save: the background snapshot that goes on, None without one.
        saves: how many were begun.
        checks: those made so far.
        reached: what was reached, for coverage.
        pages: pages that oracles have compared.
        written_pages: pages that the guest has written during saves that were judged.
        proofs: snapshots that were judged as a whole.
        image: whether QEMU has an image for internal snapshots.
        stored: how many snapshots the image has.
        plugged: what a restored guest's QEMU is given for the devices that were plugged in, by device.
        starved: whether QEMU may lack descriptors at present.
        blocked: whether commands that were drawn may have left what excludes a save: jobs, exports, devices.
        foreign: whether they may have changed the machine, so that a file fits no new QEMU.
        machines: ends the QEMUs of guests that the list went on with.
    """

    run: Run
    source: Source
    schema: QapiSchema
    settings: Settings
    host_before: HostState
    guest: GuestChoice
    written: tuple[str, float]
    tampered: set[str] = field(default_factory=set)
    booted_before: int | None = None
    model: Model = field(default_factory=Model)
    save: Save | None = None
    saves: int = 0
    checks: list[CheckResult] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)
    pages: int = 0
    written_pages: int = 0
    proofs: int = 0
    image: bool = False
    stored: int = 0
    plugged: dict[str, tuple[str, ...]] = field(default_factory=dict)
    starved: bool = False
    blocked: bool = False
    foreign: bool = False
    machines: ExitStack = field(default_factory=ExitStack)

    @property
    def restored_arguments(self) -> tuple[str, ...]:
        """What the QEMU of a restored guest is given for the devices that were plugged in."""
        return tuple(word for words in self.plugged.values() for word in words)

    @property
    def incoming(self) -> tuple[str, ...]:
        """The capabilities that restoring a snapshot taken now needs."""
        return tuple(name for name in _VALIDATED if self.settings.capabilities.get(name))

    @property
    def may_refuse(self) -> bool:
        """Return whether QEMU may refuse or fail a save, with a reason, because of what steps have done."""
        return bool(self.tampered) or self.starved or self.blocked

    @property
    def machine(self) -> Machine:
        """The QEMU."""
        return self.source.guest.machine

    @property
    def counters(self) -> AgentCounters:
        """The counters of the guest's writers."""
        return self.source.counters

    def limit(self, seconds: float = QMP_SECONDS) -> Deadline:
        """Return a deadline for one thing, never later than that of the list."""
        return self.run.deadline.at_most(seconds * self.run.stack.slowness)

    def note(self, name: str, *problems: Problem) -> None:
        """Note what is wrong, in a check of its own."""
        if problems:
            self.checks.append(judged(name, _ANSWERS, problems))

    @property
    def failed(self) -> bool:
        """Whether a check has failed."""
        return any(check.total for check in self.checks)

    def await_model_state(self) -> str:
        """Wait a little until the guest is in the model's run state; return the one that it is in."""
        limit = self.limit(_STATE_SECONDS)
        while True:
            state = str(self.machine.qmp.execute("query-status", deadline=self.limit())["status"])
            if state == self.model.run_state or limit.expired:
                return state
            self.machine.pause(limit)

    def settle(self) -> None:
        """Wait until T0 of a save that was begun early is past, or the save has ended."""
        if self.model.save is None or not self.model.save.early:
            return
        limit = self.limit()
        while not limit.expired:
            answer = self.machine.query_migrate()
            ram = answer.get("ram", {})
            moving = ram.get("normal", 0) + ram.get("duplicate", 0) > 0
            if moving or answer.get("status") in (COMPLETED, CANCELLED, FAILED):
                break
            self.machine.pause(limit, 0.002)
        self.model = self.model.moving()

    def save_goes_on(self) -> bool:
        """Return whether a save goes on for sure, and for some time yet."""
        if self.model.save is None or self.save is None or self.model.save.ends != {COMPLETED}:
            return False
        answer = self.machine.query_migrate()
        left = answer.get("ram", {}).get("remaining", 0)
        slow = self.save.sink.speed in (Speed.SLOW, Speed.STALLED)
        return slow and answer.get("status") == "active" and left > _LEFT_BYTES

    def note_settings(self) -> None:
        """Take the migration settings of now for those that the steps have set."""
        self.settings = settings(self.machine)

    def with_host_of_now(self) -> Source:
        """Take the host's state of now for that before the next save, since steps may have opened files."""
        before = replace(self.source.before, host=capture_host_state(self.machine))
        self.source = replace(self.source, before=before)
        return self.source

    def begin_host(self, folder: Path) -> None:
        """Note the host's state before a save; files in a folder do not count."""
        self.host_before = without_files_of(capture_host_state(self.machine), str(folder))

    def serve_again(self) -> None:
        """Start the writers of a guest that has been reset, once it runs and nothing is being saved.

        Raises:
            SnapproofError: the guest does not boot again, or its writers do not write.
        """
        model = self.model
        if model.writers is not Writers.GONE or model.run_state != RUNNING or model.save is not None:
            return
        agent = self.source.guest.agent
        assert isinstance(agent, BareAgent), "only bare guests are explored"
        agent.wait_booted(self.limit())
        self.limit().wait_for(lambda: agent.boot() != self.booted_before, "The guest's boot after its reset")
        agent.wait_booted(self.limit())
        self.start_writers(*self.written)

    def start_writers(self, pattern: str, coverage: float) -> None:
        """Start writers that fill a share of RAM, and wait until each page has been written once."""
        guest = self.source.guest
        plan = replace(self.run.stack, coverage=coverage).writer_plan(pattern, self.run.seed)
        status, counters = start_writers(guest, plan, self.limit(FILL_SECONDS))
        before = baseline(guest)
        if self.save is not None:
            # What the save has open is not there before the next one.
            before = replace(before, host=self.source.before.host)
        self.source = Source(guest, counters, status, before)
        self.model = self.model.served()

    def close_save(self) -> None:
        """Close the sink of a save that is over."""
        save, self.save = self.save, None
        if save is not None:
            save.opened.close()


@contextmanager
def opened_session(run: Run, guest: GuestChoice) -> Iterator[Session]:
    """Boot the guest of a list of steps and start its writers; leaving the `with` ends its QEMU."""
    run = with_guest(run, guest)
    with ExitStack() as stack:
        source = stack.enter_context(writing_guest(run))
        machine = source.guest.machine
        session = Session(
            run,
            source,
            read_schema(machine),
            settings(machine),
            source.before.host,
            guest=guest,
            written=(run.pattern, run.stack.coverage),
            machines=stack,
        )
        try:
            yield session
        finally:
            if session.save is not None:
                # The sink waits for its end, which a QEMU that hangs would never give.
                _kill(session.machine)
                with contextlib.suppress(SnapproofError):
                    session.close_save()


def _kill(machine: Machine) -> None:
    if isinstance(machine, SpawnedMachine) and machine.alive():
        machine.kill()


@contextmanager
def host_excused(machine: Machine) -> Iterator[None]:
    """Raise HostTooBusy in place of an error if QEMU got too little of the processors within the `with`."""
    pid = machine.pid
    before, begun = (processor_time(pid) if pid is not None else None), time.monotonic()
    try:
        yield
    except (HostTooBusy, NotApplicable):
        raise
    except SnapproofError as error:
        if pid is None or before is None or not machine.alive():
            raise
        got, elapsed = processor_time(pid).since(before), time.monotonic() - begun
        granted, waited = got.granted, got.waited_ns / 1e9
        if granted >= LEAST_GRANTED or waited < _LEAST_WAITED * elapsed or error.code not in _LATE:
            raise
        raise HostTooBusy(
            f"{error.sentence.rstrip('.')}, and QEMU got {granted:.0%} of the processor time that it wanted, "
            "which says nothing about it; run less beside it.",
            error.evidence,
        ) from error
