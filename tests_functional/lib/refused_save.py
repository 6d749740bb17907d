"""Judges QEMU's refusal to save a guest that has a certain device."""

from __future__ import annotations

from dataclasses import replace

from harness.codes import Code
from tests_functional.lib.build_outcome import outcome_of
from tests_functional.lib.cycle import Source
from tests_functional.lib.outcome import Outcome
from tests_functional.lib.run import Run
from tests_functional.lib.source_checks import judge_source
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_REFUSAL = "A refusal names the device, and leaves the guest as it was."


def judge_refused_save(
    run: Run, source: Source, device: str, words: str, label: str, seconds: float
) -> Outcome:
    """Judge a refusal of the first save, whose flow stops the guest before, and end the guest.

    Args:
        run: the test's.
        source: the guest.
        device: what the refusal has to name.
        words: QEMU's.
        label: of the save.
        seconds: since the test began.
    """
    source.guest.machine.qmp.execute("cont")
    checks = [judge_refusal(words, device), *judge_source(source.guest, source.before)]
    checks = [replace(check, name=f"{label}/{check.name}") for check in checks]
    source.guest.machine.quit()
    return outcome_of(run, checks, seconds, f"QEMU refuses to save such a guest clearly: {words}")


def judge_refusal(words: str, device: str) -> CheckResult:
    """Check that QEMU's refusal to save a guest names the device that it cannot save.

    Args:
        words: QEMU's.
        device: the device's name.
    """
    problems = []
    if device not in words:
        sentence = f"QEMU refuses the save with the message '{words}', which does not name '{device}'."
        problems.append(Problem(Code.REFUSAL_UNCLEAR, sentence))
    return judged("refusal", _REFUSAL, problems, {"words": words})
