"""Examines one host: probes its features, runs the feature tests, and judges snapshots taken there."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SnapproofError
from harness.hosts.host import Host
from harness.status import Status, worst
from tests_functional.hosts.balanced_save import judge_balanced
from tests_functional.hosts.disturbed_save import judge_disturbed, save_disturbed
from tests_functional.hosts.examination import BALANCED, DISTURBED, FLOWS, PLANTED, Examination, HostPlan
from tests_functional.hosts.feature_tests import (
    Event,
    carry_tests,
    probe_features,
    run_feature_tests,
)
from tests_functional.hosts.memory_kinds import judge_kinds, kind_commands
from tests_functional.hosts.planted_save import judge_planted_save, save_planted
from tests_functional.hosts.portable_warm_guest import PortableWarmGuest
from tests_functional.hosts.snapshots import (
    HostPaths,
    HostSaves,
    Report,
    judge_refusal,
    judge_snapshot,
    save_on_host,
    snapshot_of,
)
from tests_functional.lib.build_outcome import build_outcome
from tests_functional.lib.known_issues import load_known_issues, with_known_issues
from tests_functional.lib.outcome import Outcome, from_error
from tests_functional.lib.time_limits import HOST_SAVES_SECONDS
from validators.verdict import CheckResult, Violation

_TESTS_SECONDS = 1800.0
# Our status for a status of the runner; a time-out says nothing about the kernel.
_STATUS = {"TIMEOUT": Status.ERROR}


def examine(plan: HostPlan, opened: AbstractContextManager[Host], log: Callable[[str], None]) -> Examination:
    """Run the plan for a host; turn an error into an outcome, so that the other hosts are examined too.

    Args:
        plan: the tests to run.
        opened: the host, entered here and left before snapshots are judged.
        log: called with a line as each step begins.
    """
    found = Examination(plan.name, folder=plan.folder.name)
    begun = time.monotonic()
    step = "boot"
    try:
        with opened as host:

            def ended(name: str) -> None:
                found.count(name, host.processor_time().ran_ns / 1e9)

            ended("boot")
            found.facts = host.facts()
            log(f"{plan.name}: Linux {found.facts.kernel}.")
            carry_tests(host, plan.helper, plan.compiled)
            step = "features"
            found.features = probe_features(host)
            found.outcomes.append(_features(plan, found))
            ended("set-up")
            step = "kernel"
            if plan.tests is not None:
                _feature_tests(plan, found, host, log)
                ended("tests")
            step = "snapshot"
            places = plan.places(host) if plan.warm is not None else None
            report = _saves(plan, found, host, places, log) if places else None
            ended("saves")
            planted = _planted(plan, found, host, report, places, log) if places and report else None
            ended(PLANTED)
            disturbed = _disturbed(plan, found, host, report, places, log) if places and report else None
            ended("disturbed")
        step = "judgement"
        if plan.warm is not None and report is not None:
            found.outcomes += _judged(plan, found, plan.warm, report, log)
        if planted is not None:
            with _own_outcome(plan, found, PLANTED):
                found.outcomes.append(judge_planted_save(plan, found, planted))
        if report is not None and (balanced := judge_balanced(plan, found, report)) is not None:
            found.outcomes.append(balanced)
        if disturbed is not None:
            found.outcomes += judge_disturbed(plan, found, disturbed)
    except SnapproofError as error:
        seconds = time.monotonic() - begun
        found.outcomes.append(from_error(f"hosts.{plan.name}.{step}", error, seconds, found.environment()))
    found.seconds = time.monotonic() - begun
    return found


def _disturbed(
    plan: HostPlan,
    found: Examination,
    host: Host,
    report: Report,
    places: HostPaths,
    log: Callable[[str], None],
) -> Report | None:
    with _own_outcome(plan, found, DISTURBED[0]):
        return save_disturbed(plan, host, report, places, log)
    return None


def _planted(
    plan: HostPlan,
    found: Examination,
    host: Host,
    report: Report,
    places: HostPaths,
    log: Callable[[str], None],
) -> Report | None:
    with _own_outcome(plan, found, PLANTED):
        return save_planted(plan, host, report, places, log)
    return None


@contextmanager
def _own_outcome(plan: HostPlan, found: Examination, name: str) -> Iterator[None]:
    """Turn an error of one check into its outcome, so that the other snapshots are judged all the same."""
    begun = time.monotonic()
    try:
        yield
    except SnapproofError as error:
        seconds = time.monotonic() - begun
        found.outcomes.append(from_error(f"hosts.{plan.name}.{name}", error, seconds, found.environment()))


def _features(plan: HostPlan, found: Examination) -> Outcome:
    features = found.features
    assert features is not None, "probed before"
    if plan.expected is not None:
        found.deviation = features.deviation(plan.expected)
    sentence = (
        f"The kernel offers {len(features.names)} features of userfaultfd by {features.opened_by}."
        if features.opened_by
        else features.reason
    )
    if not features.write_protect:
        sentence += f" Write protection is refused by {features.ask or 'nobody'}, memory for it by "
        sentence += f"{features.register or 'nobody'}."
    if found.deviation:
        # A distribution may have backported a feature, so a deviation is not an error.
        sentence += f" Not as expected of it: {found.deviation}."
    return Outcome(
        f"hosts.{plan.name}.features",
        Status.PASS,
        sentence,
        figures={"mask": features.mask},
        environment={**found.environment(), "features": " ".join(features.names)},
    )


def _feature_tests(plan: HostPlan, found: Examination, host: Host, log: Callable[[str], None]) -> None:
    log(f"{plan.name}: running the feature tests.")
    begun = time.monotonic()
    helper = plan.helper is not None
    events = run_feature_tests(host, Deadline(_TESTS_SECONDS), plan.tests or (), helper=helper)
    (plan.folder / "kernel.json").write_text(json.dumps(events, indent=1) + "\n", encoding="utf-8")
    results = [event for event in events if event["event"] == "result"]
    found.tests = Counter(event["status"] for event in results)
    status = worst(map(_status, results)) or Status.ERROR
    found.outcomes.append(
        Outcome(
            f"hosts.{plan.name}.kernel",
            status,
            _tests_sentence(status, found.tests, results) if results else _none_ran(plan),
            time.monotonic() - begun,
            checks=[_test_check(event) for event in results],
            figures={name.lower(): count for name, count in found.tests.items()},
            environment=found.environment(),
        )
    )


def _status(event: Event) -> Status:
    return _STATUS.get(event["status"]) or Status(event["status"])


def _slug(event: Event) -> str:
    return f"{event['suite']}.{event['memory']}.{event['test']}"


def _tests_sentence(status: Status, counts: Counter[str], results: Iterable[Event]) -> str:
    said = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    worst_one = next((event for event in results if _status(event) is status), None)
    if worst_one is None or status in (Status.PASS, Status.SKIP):
        return f"The kernel's feature tests: {said}."
    return f"{_slug(worst_one)}: {worst_one['reason']} ({said})"


def _none_ran(plan: HostPlan) -> str:
    words = plan.tests or ()
    patterns = [word for option, word in itertools.pairwise(words) if option == "--filter"]
    return (
        f"No feature test matches the filter {', '.join(map(repr, patterns))}, so none ran on this host; "
        "choose a name or shell pattern for '--filter' from the list of 'snapproof kernel --list'."
    )


def _test_check(event: Event) -> CheckResult:
    slug, status = _slug(event), _status(event)
    failed = status in (Status.FAIL, Status.ERROR)
    violations = (Violation(slug, Code.KERNEL_TEST_FAILED, event["reason"]),) if failed else ()
    return CheckResult(
        slug,
        event["contract"],
        status,
        violations,
        len(violations),
        {"seconds": event["seconds"], "checks": event["checks"]},
        reason="" if failed else event["reason"],
    )


def _saves(
    plan: HostPlan, found: Examination, host: Host, places: HostPaths, log: Callable[[str], None]
) -> Report:
    assert plan.warm is not None, "there are places for a saved guest only"
    flows = (*FLOWS, BALANCED) if plan.own else FLOWS
    saves = HostSaves(flows, kinds=kind_commands(places.qemu, host.folder))
    report = save_on_host(host, plan.warm, places, saves, Deadline(HOST_SAVES_SECONDS), log)
    found.qemu = report.version
    for flow in FLOWS:
        if flow not in plan.sinks and report.find("saved", flow):
            host.get(str(places.sinks[flow]), plan.sink(flow), Deadline(HOST_SAVES_SECONDS))
    return report


def _judged(
    plan: HostPlan, found: Examination, warm: PortableWarmGuest, report: Report, log: Callable[[str], None]
) -> list[Outcome]:
    features = found.features
    assert features is not None, "probed before"
    refusal = judge_refusal(report, features.write_protect)
    outcomes = [
        _outcome(plan, found, "refusal", [refusal], "QEMU takes the host's kernel for what it is.", 0)
    ]
    kinds = judge_kinds(report, features)
    outcomes.append(_outcome(plan, found, "memory", kinds, _kinds_sentence(kinds), 0))
    refused = report.find("refused", "background")
    if refused:
        trace = " ".join(refused["trace"]) or "no userfaultfd call failed"
        found.refusal = f"{refused['text']} (kernel: {features.ask or features.reason}; trace: {trace})"
    for flow in FLOWS:
        snapshot = snapshot_of(report, flow, plan.sink(flow))
        if snapshot is None:
            continue
        begun = time.monotonic()
        log(f"{plan.name}: judging the snapshot '{flow}' and restoring it here.")
        checks = judge_snapshot(warm, snapshot, plan.folder / f"restored-{flow}")
        holds = f"The snapshot is exactly the guest at T0; stun {snapshot.stun_ms:.0f} ms, " \
            f"{snapshot.figures.total_ms} ms in all."  # fmt: skip
        outcome = _outcome(plan, found, flow, checks, holds, time.monotonic() - begun)
        if outcome.status is Status.PASS:
            snapshot.path.unlink()
        outcomes.append(with_known_issues(outcome, load_known_issues()))
    return outcomes


def _kinds_sentence(checks: Sequence[CheckResult]) -> str:
    said = [
        f"{check.name.removeprefix('memory-')} {'accepted' if text == 'accepted' else 'refused'}"
        for check in checks
        if (text := check.facts.get("text"))
    ]
    return f"QEMU takes the memory that the kernel can protect: {', '.join(said)}."


def _outcome(
    plan: HostPlan, found: Examination, name: str, checks: Sequence[CheckResult], holds: str, seconds: float
) -> Outcome:
    return build_outcome(f"hosts.{plan.name}.{name}", checks, seconds, holds, found.environment())
