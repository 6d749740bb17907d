"""Has a guest change state beside RAM while RAM is saved, and compares it in the restored guest.

The guest stores one round before T0, and further ones for as long as the slow sink holds the save up. Of the
file's guest every piece must be of the first. Stop-and-save, during which the guest stands still, is the
control.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from guest_images.agent.bare_agent import BareAgent, StateRefused
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken
from harness.qemu.configuration import MIB, type_of
from harness.status import Status
from tests_functional.beside_ram.judge import judge_goes_on, judge_restored_state, judge_source_state
from tests_functional.beside_ram.kinds import ROUNDS_AFTER, STATE_KINDS, StateKind, guests_with
from tests_functional.lib.build_outcome import Cycle, outcome_of_cycles
from tests_functional.lib.cycle import Source, judge_cycle, resting, writing_guest
from tests_functional.lib.guest import Guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Acts, Flow, take
from tests_functional.lib.source_checks import judge_source
from tests_functional.lib.time_limits import SMALL_SAVE_SECONDS
from validators.verdict import CheckResult

_FLOWS = (Flow.STOP_AND_SAVE, Flow.STOP_MIGRATE_CONT, Flow.LIVE)
# How long the save is held up, while the guest stores all that time.
_STORING_SECONDS = 4.0
_STALLS = "The sink is slow here, so that the save takes long; writers wait for protected pages meanwhile."


def state_beside_ram(name: str, restored_stores: bool = True) -> Callable[[Run], Outcome]:
    """Return the scenario for one of STATE_KINDS.

    Args:
        name: the kind's.
        restored_stores: whether the restored guest stores one more round; without it the test must fail.
    """
    return lambda run: _run(run, name, STATE_KINDS[name], restored_stores)


def _run(run: Run, name: str, kind: StateKind, restored_stores: bool) -> Outcome:
    begun = time.monotonic()
    target = run.stack.image.architecture.bare
    if not run.stack.image.bare or target is None or target.beside_ram != name:
        having = " and ".join(guest.name for guest in guests_with(name))
        raise NotApplicable(f"The guest '{run.stack.image.name}' has no {kind.words}; {having} have.")
    run = run.with_arguments(kind.arguments)
    cycles = []
    with writing_guest(run) as source:
        for number, flow in enumerate(_FLOWS):
            label = f"{name}/{number + 1:02d}-{flow.label}"
            cycle = _Cycle(run, name, kind, number * (ROUNDS_AFTER + 1), restored_stores)
            cycles.append(cycle.judge(source, flow, label))
        source.guest.machine.quit()
    return outcome_of_cycles(run, cycles, time.monotonic() - begun, compare_stuns=False)


@dataclass
class _Stored:
    """What the guest has stored.

    Attributes:
        last: the last round that it stored to all places.
        refusal: why it could store no more, "" if it could.
    """

    last: int
    refusal: str = ""


@dataclass(frozen=True)
class _Cycle:
    """One snapshot; `before` is the round that is stored before T0."""

    run: Run
    name: str
    kind: StateKind
    before: int
    restored_stores: bool

    def judge(self, source: Source, flow: Flow, label: str) -> Cycle:
        """Store a round, save the guest while it stores further ones, restore it, and judge all of it."""
        run, guest = self.run, source.guest
        self._store(guest, self.before)
        folder = run.folder / label
        folder.mkdir(parents=True)
        run.say(f"{label}: saving ({flow.value}).")
        stored = _Stored(self.before)
        limit = run.deadline.at_most(SMALL_SAVE_SECONDS * run.stack.slowness)
        acts = Acts(saving=lambda: self._store_on(guest, stored)) if flow.background else Acts()
        snapshot = take(flow, guest, source.counters, folder, limit, acts)
        if not flow.background:
            self._store(guest, self.before + 1)
            stored.last = self.before + 1
        found = self._load(guest)
        checks = judge_source(guest, source.before)
        checks.append(judge_source_state(self.name, self.kind, found, stored.last, stored.refusal))
        if not stored.refusal:
            self._require_told_apart(found)
        with resting(run.stack, guest.machine, checks):
            return judge_cycle(run, source, snapshot, label, checks, self._look, _STALLS)

    def _store_on(self, guest: Guest, stored: _Stored) -> None:
        """Store rounds of after T0 until the time is over, or the guest cannot.

        Raises:
            SetupBroken: the save was over before that.
        """
        storing, number = Deadline(_STORING_SECONDS), 0
        try:
            while number == 0 or not storing.expired:
                self._store(guest, self.before + 1 + number % ROUNDS_AFTER)
                stored.last = self.before + 1 + number % ROUNDS_AFTER
                number += 1
        except StateRefused as error:
            stored.refusal = error.sentence
        # A save that failed meanwhile is QEMU's fault, and found when it is waited for.
        if guest.machine.query_migrate().get("status") == "completed":
            raise SetupBroken(
                "The save was over before the guest had stored all, so this run proves nothing."
            )
        self.run.say(f"The guest stored {number} rounds while RAM was saved.")

    def _require_told_apart(self, found: Sequence[int]) -> None:
        """Check that state of after T0, which the source has now, would be seen in the restored guest.

        Raises:
            SetupBroken: it would not.
        """
        if judge_restored_state(self.name, self.kind, found, self.before).status is not Status.FAIL:
            raise SetupBroken(
                "What the guest stored after T0 is not told from before, so this run proves nothing."
            )

    def _look(self, guest: Guest) -> list[CheckResult]:
        """Judge what the restored guest has, and let it store one more round."""
        restored = judge_restored_state(self.name, self.kind, self._load(guest), self.before)
        if self.restored_stores:
            self._store(guest, self.before + 1)
        return [restored, judge_goes_on(self.name, self.kind, self._load(guest), self.before + 1)]

    def _places(self) -> tuple[int, ...]:
        stack = self.run.stack
        machine = stack.image.architecture.machine_type(type_of(stack.machine))
        return self.kind.places(machine.ram_start if machine else 0, stack.ram_mib * MIB)

    def _store(self, guest: Guest, number: int) -> None:
        for index, place in enumerate(self._places()):
            _agent(guest).put_beside_ram(place, self.kind.value(number, index))

    def _load(self, guest: Guest) -> list[int]:
        return [_agent(guest).get_beside_ram(place) for place in self._places()]


def _agent(guest: Guest) -> BareAgent:
    assert isinstance(guest.agent, BareAgent), "the kinds name bare guests only"
    return guest.agent
