"""Plants faults in a running QEMU, so that it saves wrongly; each must be caught and named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from harness.codes import Code
from harness.errors import SetupBroken, SubjectFailed
from harness.status import Status
from tests_functional.beside_ram.scenario import state_beside_ram
from tests_functional.lib.flows import one_flow
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.lib.symptoms import Coded, Symptom
from tests_functional.memory.host_pages import host_pages
from tests_functional.memory.never_touched import never_touched
from validators.faults.live.wrapper import FaultyQemu, faulty_qemu

_LIVE = one_flow(Flow.LIVE)


@dataclass(frozen=True)
class LiveFault:
    """A planted fault and how a run must detect it.

    Attributes:
        reason: the effect of the fault, in one line.
        check: shell pattern for the name of the check that must fail, "" if the guest is lost before it.
        cause: symptoms that name the cause; one of them is enough.
        scenario: the scenario that runs with the fault.
    """

    reason: str
    check: str
    cause: tuple[Symptom, ...]
    scenario: Callable[[Run], Outcome] = _LIVE

    def causes(self, found: Coded) -> bool:
        """Return whether a violation names this fault as its cause."""
        return any(symptom.fits(found) for symptom in self.cause)


_NEWER = (Symptom(Code.WRITE_ORDER_NEWER), Symptom(Code.WRITE_ORDER_TORN, {"age": ("newer",)}))
_STALLED = (Symptom(Code.WRITE_STALL_TOO_LONG),)
_HANGS = (
    Symptom(Code.SOURCE_SILENT),
    Symptom(Code.SAVE_GUEST_SILENT),
    Symptom(Code.SOURCE_WRITE_PROTECTED),
    # Any wait that times out because threads of QEMU wait for pages.
    Symptom(fields={"waiting_threads": ()}),
    Symptom(fields={"waiting_faults": ()}),
)

LIVE_FAULTS: Mapping[str, LiveFault] = {
    "drop_protection": LiveFault(
        "an eighth of RAM is not protected, so pages newer than T0 reach the file", "*write-order", _NEWER
    ),
    "report_success": LiveFault(
        "QEMU is told that RAM is protected and it is not, so pages newer than T0 reach the file",
        "*write-order",
        # The page that has a writer's count of steps is not protected either. Where it is saved after the
        # others it is the newer one: it is of another moment than the control page says.
        (*_NEWER, Symptom(Code.WRITE_ORDER_OTHER_MOMENT)),
    ),
    "release_early": LiveFault(
        "pages are released before they are saved, so pages newer than T0 reach the file",
        "*write-order",
        _NEWER,
    ),
    "skip_release": LiveFault(
        "saved pages stay protected to the end of the save, and writers wait for that",
        "*write-stall",
        _STALLED,
    ),
    "keep_protected": LiveFault("saved pages stay protected for good, and the guest hangs", "", _HANGS),
    "lose_events": LiveFault(
        "fault events are lost, so a writer waits until the save reaches its page",
        "*write-stall",
        _STALLED,
    ),
    "delay_events": LiveFault("QEMU gets a fault event late", "*write-stall", _STALLED),
    "forget_untouched": LiveFault(
        "pages that were never touched are not protected, so they reach the file newer than T0",
        "*golden",
        (Symptom(Code.GOLDEN_DIFFERS),),
        never_touched,
    ),
}


def planted(name: str, pages: str = "", state: str = "") -> Callable[[Run], Outcome]:
    """Return a scenario that plants a fault and passes if the run fails and names the fault.

    Args:
        name: one of LIVE_FAULTS.
        pages: one of HOST_PAGES, to plant it in the test of such guest RAM; "" for the fault's own scenario.
        state: one of STATE_KINDS, to plant it in the test of that state beside RAM, which must see it.
    """
    fault = LIVE_FAULTS[name]
    if state:
        cause = (Symptom(Code.BESIDE_RAM_NEWER, {"state": (state,)}),)
        fault = replace(fault, scenario=state_beside_ram(state), check="*/restored-beside-ram", cause=cause)
    if pages:
        fault = replace(fault, scenario=host_pages(pages))
    return lambda run: run_with_fault(run, name, fault)


def run_with_fault(run: Run, name: str, fault: LiveFault) -> Outcome:
    """Run a fault's scenario with a QEMU in which it is planted, and judge whether it was named.

    Args:
        run: the test's run.
        name: of the fault's library.
        fault: the scenario, and the symptoms that it must show.

    Raises:
        SetupBroken: the fault never acted.
    """
    qemu = faulty_qemu(name, run.stack.executable, run.folder, run.provisioning)
    faulty = replace(run, stack=replace(run.stack, executable=qemu.executable))
    run.say(f"Planted '{name}': {fault.reason}.")
    lost: SubjectFailed | None = None
    try:
        outcome = fault.scenario(faulty)
    except SubjectFailed as failure:
        lost = failure
        outcome = Outcome(run.name, Status.FAIL, failure.sentence, environment=run.environment())
    return judge_planted(run, name, fault, outcome, _acts(name, qemu), lost)


def _acts(name: str, qemu: FaultyQemu) -> int:
    """Return how often the fault acted.

    Raises:
        SetupBroken: the fault never acted, so the run proves nothing.
    """
    acts = qemu.acts
    if acts == 0:
        raise SetupBroken(
            f"The planted fault '{name}' never acted, so this run says nothing about the checks."
        )
    return acts


def judge_planted(
    run: Run, name: str, fault: LiveFault, outcome: Outcome, acts: int, lost: SubjectFailed | None = None
) -> Outcome:
    """Turn the outcome of a run with a fault into the outcome of the test that plants it.

    Args:
        run: the test's run.
        name: name of the fault.
        fault: the fault, with the symptoms that the run must show.
        outcome: the outcome of the run with the fault.
        acts: how often the fault acted.
        lost: the error that ended the run, None if the run got to its checks.
    """
    seen: list[Coded] = [
        violation
        for check in outcome.checks
        if check.status is Status.FAIL and fnmatchcase(check.name, fault.check or "*")
        for violation in check.violations
    ]
    if lost and not fault.check:
        seen.append(lost)
    named = [one for one in seen if fault.causes(one)]
    figures = {"acts": acts}
    if outcome.status is Status.FAIL and named:
        run.discard(run.folder)
        sentence = f"The planted fault '{name}' was caught: {named[0].sentence}"
        return replace(outcome, status=Status.PASS, sentence=sentence, checks=(), figures=figures)
    sentence = (
        f"The planted fault '{name}' was not detected ({fault.reason}): it acted {acts} times, and the run "
        f"ended as {outcome.status.value} without naming it ({outcome.sentence})"
    )
    return replace(outcome, status=Status.FAIL, sentence=sentence, figures=figures)
