"""Attaches to a VM whose owner sets a parameter, opens a file and pauses the guest while it is saved."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from harness.attach.machine import AttachedMachine
from harness.codes import Code
from harness.deadline import Deadline
from harness.qemu.machine import Machine
from tests_functional.attach.prove import AttachOptions, prove
from tests_functional.attach.scenario import MAX_STOP, stranger
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_TOLD = "What the VM's owner does while it is saved is told, and not blamed on the snapshot."
_SECONDS = 60.0
_NODE = "of-owner"
_PARAMETER = "downtime-limit"
_LIMIT_MS = 321


def owner_acts(run: Run) -> Outcome:
    """Prove a VM whose owner changes it in mid-save: the proof holds, and names what was changed."""
    begun = time.monotonic()
    image = run.folder / "owner.raw"
    image.write_bytes(bytes(1 << 20))
    with stranger(run) as (source, path):
        owner = threading.Thread(target=_act, args=(source.guest.machine, image))
        with AttachedMachine(path, run.folder / "owner", MAX_STOP) as machine:
            owner.start()
            options = AttachOptions(run.name, restore=False)
            try:
                outcome = prove(machine, options, run.folder / "owner", run.say)
            finally:
                owner.join()
    check = judge_told(outcome.checks, image)
    run.discard(run.folder / "owner")
    return outcome_of(
        run,
        [*outcome.checks, check],
        time.monotonic() - begun,
        "The owner's acts were told.",
        outcome.figures,
    )


def _act(machine: Machine, image: Path) -> None:
    """Change a VM while it is saved."""
    deadline = Deadline(_SECONDS)
    while machine.query_migrate().get("status") not in ("active", "completed"):
        if deadline.expired:
            return
        machine.pause(deadline, 0.005)
    machine.qmp.execute("migrate-set-parameters", {_PARAMETER: _LIMIT_MS})
    machine.qmp.execute("blockdev-add", {"driver": "file", "node-name": _NODE, "filename": str(image)})


def judge_told(checks: Sequence[CheckResult], image: Path) -> CheckResult:
    """Check that the parameter and the file were told as the owner's."""
    told = " ".join(
        str(fact) for check in checks if check.name == "source-vm" for fact in check.facts.values()
    )
    problems = [
        Problem(Code.ATTACH_UNSEEN, f"'{what}', which the owner changed, was not told.", {"what": what})
        for what in (_PARAMETER, str(image))
        if what not in told
    ]
    return judged("told", _TOLD, problems)
