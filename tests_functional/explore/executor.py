"""Runs a list of steps on a real guest, and judges all of it by the model and the oracles."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.codes import Code
from harness.errors import HostTooBusy, MachineryMissing, NotApplicable, SetupBroken, SnapproofError
from harness.status import Status
from tests_functional.during_save.mid_save import quit_after
from tests_functional.explore.menu import KINDS
from tests_functional.explore.model import RUNNING, SUSPENDED
from tests_functional.explore.saving import snapshot
from tests_functional.explore.session import Session, host_excused, opened_session
from tests_functional.explore.steps import Step, StepList
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from validators.checks import Problem, judged
from validators.verdict import CheckResult, Violation

_STATE = "The guest is in the run state that the steps imply."
_QEMU = "QEMU lives and answers unless a step ends it."
# assert() of glibc, and g_assert() of GLib, which names file and line before.
_ASSERTED = re.compile(r"(\w+): Assertion|ERROR:[^:\s]+:\d+:(\w+):")
_SETUP = (HostTooBusy, SetupBroken, MachineryMissing, NotApplicable)


@dataclass(frozen=True)
class Record:
    """What became of a list of steps.

    Attributes:
        steps: the list.
        checks: all checks that were made.
        taken: how many of its steps were taken before one failed, or all.
        reached: what was reached, for coverage.
        seconds: wall time.
        proofs: snapshots that were judged as a whole.
        pages: pages that oracles have compared.
        written_pages: pages that the guest has written during saves that were judged.
        error: why the list says nothing: the set-up's, or the host's fault; "" if it does.
    """

    steps: StepList
    checks: Sequence[CheckResult] = ()
    taken: int = 0
    reached: frozenset[str] = frozenset()
    seconds: float = 0.0
    proofs: int = 0
    pages: int = 0
    written_pages: int = 0
    error: str = ""

    @property
    def violations(self) -> tuple[Violation, ...]:
        """The violations of all failed checks."""
        return tuple(
            violation
            for check in self.checks
            if check.status is Status.FAIL
            for violation in check.violations
        )

    @property
    def failed(self) -> bool:
        """Whether a check has failed."""
        return bool(self.violations)

    @property
    def status(self) -> Status:
        """The worst status of the checks; ERROR if the list says nothing."""
        if self.failed:
            return Status.FAIL
        return Status.ERROR if self.error or not self.checks else Status.PASS


@dataclass
class _Progress:
    """How far a list has got, also where an error ends it."""

    session: Session | None = None
    step: Step | None = None
    taken: int = 0
    checks: list[CheckResult] = field(default_factory=list)


def run_steps(run: Run, steps: StepList) -> Record:
    """Run a list of steps in the run's folder and return its record."""
    begun, progress, error = time.monotonic(), _Progress(), ""
    try:
        with opened_session(replace(run, keep=True), steps.guest) as session:
            progress.session = session
            _take_all(session, steps.steps, progress)
    except _SETUP as failed:
        error = failed.sentence
    except SnapproofError as failed:
        if progress.session is None:
            # The guest did not boot: no step was taken.
            error = failed.sentence
        else:
            progress.checks.append(judged("explore/qemu", _QEMU, [_lost(failed, progress.step)]))
    session_found = progress.session
    checks = [*(session_found.checks if session_found else ()), *progress.checks]
    record = Record(steps, tuple(checks), progress.taken, seconds=time.monotonic() - begun, error=error)
    if session_found is None:
        return record
    return replace(
        record,
        reached=frozenset(session_found.reached),
        proofs=session_found.proofs,
        pages=session_found.pages,
        written_pages=session_found.written_pages,
    )


def _lost(error: SnapproofError, step: Step | None) -> Problem:
    """Return what an error says, with the step that was taken and the function that asserted something."""
    fields = dict(error.fields)
    if step is not None:
        fields["step"] = str(step.arguments.get("command", step.kind))
    if asserted := _ASSERTED.search(error.evidence.log_tail):
        fields["asserted"] = asserted[1] or asserted[2]
    return Problem(error.code, error.sentence, fields)


def _take_all(session: Session, steps: Sequence[Step], progress: _Progress) -> None:
    """Take the steps, then end the save that still goes on, save once more, and have QEMU quit."""
    for step in steps:
        progress.step = step
        _take(session, step)
        progress.taken += 1
        if session.failed:
            return
    progress.step = None
    _take(session, Step("finish"))
    if session.failed:
        return
    if session.model.run_state == SUSPENDED:
        _take(session, Step("wake"))
    elif session.model.run_state != RUNNING:
        _take(session, Step("cont"))
    if not session.failed and not session.tampered:
        snapshot(session, Flow.LIVE)
    if not session.failed:
        session.checks.append(quit_after(session.machine, session.run.stack.slowness))


def _take(session: Session, step: Step) -> None:
    """Take one step and check that the guest is in the model's run state."""
    before = session.model.words
    session.run.say(f"{step.words} in {before}")
    applied = KINDS[step.kind].act(session, step.arguments)
    if not applied:
        return
    session.reached.add(f"{step.kind} in {before}")
    if session.failed:
        return
    with host_excused(session.machine):
        state = session.await_model_state()
    if state != session.model.run_state:
        sentence = f"After {step.words} the guest is '{state}', and had to be '{session.model.run_state}'."
        problem = Problem(Code.RUN_STATE_CHANGED, sentence, {"state": state})
        session.checks.append(judged("explore/guest", _STATE, [problem]))
