"""Has libvirt restore the snapshot of a domain: a right one, one with a planted fault, and being killed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from harness.attach.machine import AttachedMachine
from harness.codes import Code
from harness.deadline import Deadline
from harness.errors import SetupBroken
from harness.libvirt.daemon import Libvirt
from harness.status import Status
from tests_functional.attach.domains import MAX_STOP, DomainGuest, own_libvirt, writing_domain
from tests_functional.attach.kills import THROUGH_INSTANTS
from tests_functional.attach.libvirt import judge_domain, said
from tests_functional.attach.look import GoldenWay
from tests_functional.attach.prove import AttachOptions
from tests_functional.attach.save import save_attached
from tests_functional.attach.scenario import kill_at_each_instant, prove_at
from tests_functional.attach.through_libvirt import COPY_PREFIX, RAM, RESTORE, restore_through_libvirt
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged
from validators.faults.files import CATALOGUE, DamagePlace, apply_fault
from validators.verdict import CheckResult

_FAULT = "bit-flip"
_SECONDS = 300.0
_GONE_SECONDS = 60.0
_SEEN = "A page that was changed in the file is named in the domain that libvirt has restored of it."
_NONE_LEFT = "No domain that libvirt has restored is left, also where the command or its guard was killed."


def through_libvirt(name: str, user: str) -> Callable[[Run], Outcome]:
    """Return a scenario that has a libvirt restore the snapshot of a domain of its own.

    Args:
        name: of the libvirt, see `guest_images.libvirt.LIBVIRTS`.
        user: of its QEMUs.
    """

    def scenario(run: Run) -> Outcome:
        begun = time.monotonic()
        with own_libvirt(run, name, user, run.folder) as libvirt, writing_domain(run, libvirt) as guest:
            options = AttachOptions(run.name, restore=False, through_libvirt=True)
            outcome = prove_at(guest.domain, run.folder / "proof", options, run)
            require_compared(outcome.checks)
            checks = [*outcome.checks, judge_none_left(_copies(libvirt), "proof"), _planted(run, guest)]
            checks += kill_at_each_instant(run, guest.source, guest.domain, THROUGH_INSTANTS)
            checks += [judge_none_left(_copies(libvirt, Deadline(_GONE_SECONDS)), "killed")]
            checks.append(judge_domain(*said(libvirt)))
        run.discard(run.folder)
        holds = f"libvirt {libvirt.packages.version} has restored the snapshot, and its RAM is that of T0."
        return outcome_of(run, checks, time.monotonic() - begun, holds, dict(outcome.figures))

    return scenario


def require_compared(checks: Sequence[CheckResult]) -> None:
    """Raise SetupBroken if libvirt has not restored the file or its RAM was not compared."""
    for name in (RESTORE, RAM):
        found = [check for check in checks if check.name == name]
        if not found or found[0].status is Status.SKIP:
            why = found[0].reason if found else "there is no such check"
            raise SetupBroken(f"'{name}' shows nothing: {why}")


def _planted(run: Run, guest: DomainGuest) -> CheckResult:
    """Have libvirt restore a file in which a page was changed, and return the check that it is named."""
    folder = run.folder / "planted"
    run.say("Having libvirt restore a file with a planted fault.")
    with AttachedMachine(guest.domain, folder, MAX_STOP) as machine:
        snapshot = save_attached(machine, folder, run.stack.total_mib, GoldenWay.MEMORY, _SECONDS)
        (fault,) = [one for one in CATALOGUE if one.name == _FAULT]
        changed = folder / "changed" / "vmstate"
        changed.parent.mkdir()
        place = apply_fault(snapshot.path, fault, changed)
        if place is None:
            raise SetupBroken(f"The fault '{_FAULT}' cannot be planted in this file.")
        checks, _changes = restore_through_libvirt(machine, replace(snapshot, path=changed), folder, _SECONDS)
    require_compared(checks)
    return judge_named(checks, place)


def judge_named(checks: Sequence[CheckResult], place: DamagePlace) -> CheckResult:
    """Check that the pages that were changed, and no others, are named."""
    named = [
        (violation.block, violation.offset)
        for check in checks
        for violation in check.violations
        if violation.code is Code.GOLDEN_DIFFERS
    ]
    expected = [(place.block, offset) for offset in place.offsets]
    problems = []
    if named != expected:
        sentence = f"The pages {expected} were changed in the file, and named were {named}."
        problems.append(Problem(Code.ATTACH_UNSEEN, sentence, {"what": _FAULT}))
    return judged("planted", _SEEN, problems, {"pages named": len(named)})


def _copies(libvirt: Libvirt, deadline: Deadline | None = None) -> list[str]:
    """Return the restored domains that a libvirt has, once it has none or the deadline has passed."""
    while True:
        names = libvirt.run("list", "--all", "--name").split()
        found = [name for name in names if name.startswith(COPY_PREFIX)]
        if not found or deadline is None or deadline.expired:
            return found
        deadline.nap(0.2)


def judge_none_left(names: Sequence[str], when: str) -> CheckResult:
    """Check that libvirt has no restored domain any more."""
    problems = [
        Problem(Code.ATTACH_LEFT, f"The domain '{name}' is left in libvirt.", {"what": "copy"})
        for name in names
    ]
    return judged(f"{when}/no-copy", _NONE_LEFT, problems)
