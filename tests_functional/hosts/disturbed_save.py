"""Takes background snapshots on a VM host while its kernel splits, moves and poisons pages of guest RAM."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from guest_images.agent.format import WORD_BYTES, BareCommand, ControlWord
from harness.codes import Code
from harness.deadline import Deadline
from harness.hosts.host import Host
from harness.qemu.configuration import MIB
from harness.status import Status
from tests_functional.hosts.examination import (
    DISTURBED,
    OFFLINE,
    POISONED,
    SPLIT,
    Examination,
    HostPlan,
    golden_of,
)
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.hosts.snapshots import (
    HostPaths,
    HostSaves,
    Report,
    judge_snapshot,
    save_on_host,
    snapshot_of,
)
from tests_functional.lib.build_outcome import build_outcome
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.time_limits import HOST_SAVES_SECONDS
from validators.checks import Problem, judged
from validators.judge import check_file
from validators.verdict import CheckResult

# Each costs a command to the guest.
_HOLES = 24
# Pages that an act must have met while QEMU was stopped, and while it ran.
_LEAST_MET = {SPLIT: 512, OFFLINE: 16}
_WORDS = {
    SPLIT: "split its large page",
    OFFLINE: "took its frame out of use and moved it to another",
}
_KEPT = "A page that was protected before the host made its entry anew is protected afterwards."
_MET = "While RAM was saved, the host made entries of its pages anew."
_MOST_NAMED = 8
_BLIND = (
    "This kernel's pagemap does not show which pages are protected (Linux 5.14 does), so no page that is not "
    "saved yet can be chosen and poisoned."
)
# QEMU takes the signal of a memory error under TCG too (system/cpus.c qemu_init_sigbus()). If KVM is compiled
# in, it calls KVM's handler, which nothing has initialized, and fails an assertion. If not, it raises SIGBUS
# again.
_ENDS = (signal.SIGBUS, signal.SIGABRT)


def save_disturbed(
    plan: HostPlan, host: Host, report: Report, places: HostPaths, log: Callable[[str], None]
) -> Report | None:
    """Take the snapshots; return None if the host took no background snapshot or is not ours alone."""
    if not plan.sparse or not places.sparse or not plan.own or not report.find("saved", "background"):
        return None
    log(f"{plan.name}: saving in the background while the kernel acts on pages: {', '.join(DISTURBED)}.")
    saves = HostSaves(
        DISTURBED,
        disturb=_disturb(plan.sparse),
        goldens={flow: places.sinks[golden_of(flow)] for flow in DISTURBED},
    )
    there = replace(places, vmstate=places.sparse)
    return save_on_host(host, plan.sparse, there, saves, Deadline(HOST_SAVES_SECONDS), log)


def _disturb(guest: PortableWarmGuest) -> dict[str, Any]:
    """Return what on_host.py needs to know of a guest for these saves."""

    def at(word: ControlWord) -> int:
        return guest.control + word * WORD_BYTES

    words = (ControlWord.REQUEST, ControlWord.ANSWER, ControlWord.COMMAND, ControlWord.RESULT)
    pages = guest.source.data_pages
    # The last ones lie where QEMU saves last.
    holes = range(pages - 1, pages // 4, -max(pages // (2 * _HOLES), 1))
    return {
        "ram": guest.stack.ram_mib * MIB,
        "mailbox": {
            **{word.name.lower(): at(word) for word in (*words, ControlWord.ARGUMENTS)},
            "pause": int(BareCommand.PAUSE),
            "resume": int(BareCommand.RUN),
            "hole": int(BareCommand.CORRUPT),
        },
        "holes": list(holes)[:_HOLES],
    }


def judge_disturbed(plan: HostPlan, found: Examination, report: Report) -> list[Outcome]:
    """Judge the snapshots; one that the host could not take is skipped, with the reason."""
    return [_judge(plan, found, report, flow) for flow in DISTURBED]


def _judge(plan: HostPlan, found: Examination, report: Report, flow: str) -> Outcome:
    cannot, ended = report.find("cannot", flow), report.find("ended", flow)
    if cannot is not None:
        blind = found.features is not None and not found.features.shows_protection
        if flow == POISONED and blind and not cannot["blames_host"]:
            return _outcome(plan, found, flow, Status.SKIP, _BLIND)
        status = Status.SKIP if cannot["blames_host"] else Status.ERROR
        return _outcome(plan, found, flow, status, cannot["text"])
    if ended is not None:
        return _judge_ended(plan, found, flow, ended)
    checks, holds = _checks(plan, report, flow)
    outcome = build_outcome(f"hosts.{plan.name}.{flow}", checks, 0, holds, found.environment())
    if outcome.status is Status.PASS:
        plan.sink(flow).unlink()
        plan.golden(flow).unlink()
    return outcome


def _judge_ended(plan: HostPlan, found: Examination, flow: str, ended: Mapping[str, Any]) -> Outcome:
    """Judge the end of a QEMU with a poisoned page: by a signal, and its file is incomplete."""
    file, code = plan.sink(flow), int(ended["exit_code"])
    last = (ended["log"] or ["nothing"])[-1]
    if -code not in _ENDS:
        said = (
            f"With a poisoned page of guest RAM QEMU ended with exit code {code}; SIGBUS or SIGABRT was "
            f"expected. Its last words: {last}."
        )
        return _outcome(plan, found, flow, Status.FAIL, said)
    how = signal.Signals(-code).name
    with file.open("r+b") as stream:
        stream.truncate(ended["bytes"])
    violations = check_file(file, agent_ran=True).violations
    if not violations:
        said = f"QEMU was ended by {how} before it had saved a poisoned page, and its file passes for whole."
        return _outcome(plan, found, flow, Status.FAIL, said)
    file.unlink()
    plan.golden(flow).unlink()
    said = f"A poisoned page ended QEMU by {how} ('{last}'); its file is refused: {violations[0].sentence}"
    return _outcome(plan, found, flow, Status.PASS, said)


def _outcome(plan: HostPlan, found: Examination, flow: str, status: Status, sentence: str) -> Outcome:
    return Outcome(f"hosts.{plan.name}.{flow}", status, sentence, environment=found.environment())


def _checks(plan: HostPlan, report: Report, flow: str) -> tuple[list[CheckResult], str]:
    """Return the checks of a completed snapshot, and the sentence that holds if all pass."""
    assert plan.sparse is not None, "saved before"
    saved, golden = report.find("saved", flow), plan.golden(flow)
    snapshot = snapshot_of(report, flow, plan.sink(flow))
    assert saved is not None, "one that was not saved has been judged"
    assert snapshot is not None, "it has been saved"
    with golden.open("r+b") as image:
        image.truncate(plan.sparse.stack.ram_mib * MIB)
    acts, words = saved["acts"], _WORDS.get(flow, "poisoned its frame")
    checks = [_kept(flow, words, acts["lost"], int(acts["lost_pages"]))]
    if flow != POISONED:
        checks.append(_met(flow, acts))
    checks += judge_snapshot(plan.sparse, snapshot, plan.folder / f"restored-{flow}", golden)
    holds = (
        f"The snapshot is exactly the guest at T0 while the kernel {words}: "
        f"{acts['met']['stopped']} pages with QEMU stopped, {acts['met']['running']} while it ran."
    )
    return checks, holds


def _kept(flow: str, words: str, lost: Sequence[int], count: int) -> CheckResult:
    problems = [
        Problem(
            Code.MEMORY_PROTECTION_LOST,
            f"The page at {address:#x} of guest RAM was write-protected, and is not since the host's kernel "
            f"{words}; QEMU was stopped meanwhile ({count} pages in all).",
            {"way": flow},
        )
        for address in lost[:_MOST_NAMED]
    ]
    return judged(f"memory/{flow}/protection-kept", _KEPT, problems, {"pages unprotected": count})


def _met(flow: str, acts: Mapping[str, Any]) -> CheckResult:
    met, least = acts["met"], _LEAST_MET[flow]
    facts = {
        "pages while QEMU was stopped": int(met["stopped"]),
        "pages while QEMU ran": int(met["running"]),
        "pages of zeros written": int(acts["holes"]),
    }
    check = judged(f"memory/{flow}/met", _MET, [], facts)
    if min(met["stopped"], met["running"]) >= least and (flow != SPLIT or acts["holes"] == _HOLES):
        return check
    said = f"The kernel acted on too few pages, {met['stopped']} and {met['running']} of {least} each."
    return replace(check, status=Status.ERROR, reason=said)
