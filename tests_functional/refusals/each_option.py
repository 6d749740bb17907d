"""Combines each migration option of this QEMU with a background snapshot: a right one or a clear refusal."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.codes import Code
from harness.errors import MachineryMissing, NotApplicable, SetupBroken, SnapproofError, SubjectFailed
from harness.qemu import migration
from harness.qemu.machine import Machine
from harness.qemu.qapi_schema import read_schema
from harness.qemu.qmp import CommandRefused
from harness.status import Status
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source, snapshot_cycle, writing_guest
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.save import Flow
from tests_functional.lib.source_checks import judge_source
from tests_functional.refusals.migration_options import (
    Option,
    Settings,
    capability_options,
    parameter_options,
    put_back,
    settings,
)
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_SETTING = "QEMU refuses or accepts an option regardless of the order of setting it and background-snapshot."
_REFUSAL = "A refusal names the option or background-snapshot, and changes no setting."
_ACCEPTED = "A save with an accepted option is right by every oracle, or fails with a reason."


class Kind(enum.Enum):
    """The kinds of migration options."""

    CAPABILITIES = "capabilities"
    PARAMETERS = "parameters"


class Order(enum.Enum):
    """The order in which a user sets an option and background-snapshot."""

    ALONE = "without background-snapshot"
    OPTION_FIRST = "before background-snapshot"
    SNAPSHOT_FIRST = "after background-snapshot"
    TOGETHER = "in one command with background-snapshot"


@dataclass
class _Group:
    """Results for all options of a kind."""

    run: Run
    checks: list[CheckResult]
    accepted: int = 0


def refusals(kind: Kind) -> Callable[[Run], Outcome]:
    """Return a scenario that judges each option of a kind in turn."""
    return lambda run: _all(run, kind)


def _all(run: Run, kind: Kind) -> Outcome:
    begun, group, guests = time.monotonic(), _Group(run, []), 0
    left: list[Option] | None = None
    while left is None or left:
        guests += 1
        folder = run.folder / f"guest-{guests}"
        folder.mkdir()
        with writing_guest(replace(run, folder=folder)) as source:
            machine = source.guest.machine
            migration.require_known(machine, migration.BACKGROUND_SNAPSHOT)
            left = _options(machine, kind) if left is None else left
            well = True
            while left and well:
                well = _well_after(group, source, left.pop(0))
            if well:
                found = judge_source(source.guest, source.before)
                group.checks += [replace(c, name=f"refusals/guest-{guests}/{c.name}") for c in found]
                machine.quit()
    if all(check.status is Status.PASS for check in group.checks):
        run.discard(run.folder)
    figures = {"guests": guests, "accepted": group.accepted}
    holds = f"Each of this QEMU's migration {kind.value} is refused clearly or gives a right snapshot."
    return outcome_of(run, group.checks, time.monotonic() - begun, holds, figures)


def _options(machine: Machine, kind: Kind) -> list[Option]:
    schema = read_schema(machine)
    if kind is Kind.CAPABILITIES:
        return list(capability_options(schema))
    return list(parameter_options(schema, settings(machine).parameters))


def _well_after(group: _Group, source: Source, option: Option) -> bool:
    """Judge one option; return whether its guest and QEMU can be used for the next."""
    machine = source.guest.machine
    before = settings(machine)
    found: list[CheckResult] = []
    setting: CheckResult | None = None
    try:
        words = words_when_set(machine, option, before)
        setting = judge_setting(option, words)
        found.append(setting)
        if not words[Order.OPTION_FIRST]:
            group.accepted += 1
            found += _judge_accepted(group.run, source, option)
        as_before = put_back(machine, before)
    except (MachineryMissing, SetupBroken):
        raise
    except SnapproofError as error:
        found.append(judged(f"refusals/{option.slug}/alive", _ACCEPTED, [Problem.of_error(error)]))
        as_before = False
    group.checks += found
    bad = [check for check in found if check.status is Status.FAIL]
    for check in bad:
        group.run.say(f"{check.name}: {check.violations[0].sentence}")
    # An unclear message harms no guest. After a wrong snapshot the next option gets a new guest.
    return as_before and machine.alive() and all(check is setting for check in bad)


def words_when_set(machine: Machine, option: Option, before: Settings) -> dict[Order, str]:
    """Return QEMU's error message for each order of setting the two, "" where QEMU accepts them.

    Raises:
        SubjectFailed: a refusal changed a setting.
    """
    orders = [order for order in Order if option.capability or order is not Order.TOGETHER]
    words = {}
    for order in orders:
        words[order] = _set_both(machine, option, order)
        put_back(machine, before)
    return words


def _set_both(machine: Machine, option: Option, order: Order) -> str:
    begun = settings(machine)
    try:
        if order is Order.OPTION_FIRST:
            option.set(machine)
            begun = settings(machine)
        if order is Order.ALONE:
            option.set(machine)
        elif order is Order.TOGETHER:
            names = (migration.BACKGROUND_SNAPSHOT, option.capability)
            both = [{"capability": name, "state": True} for name in names]
            machine.qmp.execute("migrate-set-capabilities", {"capabilities": both})
        else:
            migration.set_capability(machine, migration.BACKGROUND_SNAPSHOT, True)
        if order is Order.SNAPSHOT_FIRST:
            begun = settings(machine)
            option.set(machine)
    except CommandRefused as refusal:
        if settings(machine) != begun:
            sentence = f"QEMU refuses '{option.slug}' and yet has changed a setting"
            raise machine.failure(sentence, Code.REFUSAL_CHANGED_SETTING) from refusal
        return refusal.reason or "QEMU gives no reason"
    return ""


def judge_setting(option: Option, words: dict[Order, str]) -> CheckResult:
    """Check that QEMU's answer is the same in every order, and clear."""
    if words[Order.ALONE]:
        # The option needs something that this guest lacks, for any kind of migration.
        return judged(f"refusals/{option.slug}", _REFUSAL, [], {"refused alone": words[Order.ALONE]})
    words = {order: text for order, text in words.items() if order is not Order.ALONE}
    refused = {order: text for order, text in words.items() if text}
    problems = []
    if refused and len(refused) < len(words):
        taken = next(order for order in words if order not in refused)
        order, text = next(iter(refused.items()))
        problems.append(
            Problem(
                Code.SETTING_ORDER,
                f"QEMU accepts '{option.slug}' {taken.value}, but refuses it {order.value}: {text}",
            )
        )
    problems += [
        Problem(
            Code.REFUSAL_UNCLEAR,
            f"QEMU refuses '{option.slug}' and names neither it nor background-snapshot: {text}",
        )
        for text in dict.fromkeys(refused.values())
        if not option.named_by(text)
    ]
    facts = {"words": next(iter(refused.values()), "")}
    return judged(f"refusals/{option.slug}", _REFUSAL if refused else _SETTING, problems, facts)


def _judge_accepted(run: Run, source: Source, option: Option) -> list[CheckResult]:
    """Take a snapshot with the option by a command and by a file; judge it, or the refusal."""
    machine = source.guest.machine
    results = []
    for flow, transport in ((Flow.LIVE, "exec"), (Flow.LIVE_FILE, "file")):
        name = f"refusals/{option.slug}/{transport}"
        run.say(f"{option.slug}: accepted, saving to {transport}:.")
        option.set(machine)
        try:
            problems, facts = _problems(run, source, option, flow)
        except NotApplicable:
            if flow is Flow.LIVE:
                raise
            # This QEMU has no file: URI.
            continue
        except CommandRefused as refusal:
            problems, facts = _unclear(option, refusal.reason), {"words": refusal.reason}
        except SubjectFailed as failure:
            words = _reason_of_failed_save(machine, failure)
            problems, facts = _unclear(option, words), {"words": words}
        results.append(judged(name, _ACCEPTED, problems, facts))
    return results


def _problems(run: Run, source: Source, option: Option, flow: Flow) -> tuple[list[Problem], dict[str, str]]:
    incoming = (option.capability,) if option.capability else ()
    label = f"{option.slug}-{flow.label}"
    cycle = snapshot_cycle(run, source, flow, label, incoming)
    failed = [check for check in cycle.verdict.checks if check.status is Status.FAIL]
    # The checks go from cause to consequence: a file without RAM fails to restore as well.
    problems = [
        Problem.of_violation(check.violations[0], f"{check.name}: {check.violations[0].sentence}")
        for check in failed[:1]
    ]
    return problems, {"also failed": " ".join(check.name for check in failed[1:])}


def _reason_of_failed_save(machine: Machine, failure: SubjectFailed) -> str:
    """Return QEMU's message for a save that failed with the guest running; raise any other failure."""
    if not machine.alive():
        raise failure
    answer = machine.query_migrate()
    state = machine.qmp.execute("query-status")["status"]
    if answer.get("status") != "failed" or state != "running":
        raise failure
    return str(answer.get("error-desc", ""))


def _unclear(option: Option, words: str) -> list[Problem]:
    """Return a problem if the message of a refusal or of a failed save does not say why."""
    if option.named_by(words) or "transport" in words:
        return []
    sentence = f"QEMU does not save with '{option.slug}', and its message does not say why: '{words}'."
    return [Problem(Code.REFUSAL_UNCLEAR, sentence)]
