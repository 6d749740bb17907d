"""Judges state beside RAM that was read back, in the source guest and in the restored one."""

from __future__ import annotations

from collections.abc import Sequence

from harness.codes import Code
from tests_functional.beside_ram.kinds import ROUNDS_AFTER, StateKind
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_RESTORED = "State that the machine keeps beside RAM is in the restored guest as it was at T0."
_SOURCE = "State that the guest changes while RAM is saved is what it has stored last."
_GOES_ON = "The restored guest changes that state as before."
_MOST_NAMED = 3


def judge_restored_state(name: str, kind: StateKind, found: Sequence[int], before: int) -> CheckResult:
    """Check what a restored guest loads from each place.

    Args:
        name: of the kind.
        kind: the state.
        found: what it loads.
        before: the round that was stored before T0.
    """
    expected = [kind.value(before, index) for index in range(len(found))]
    later = [
        {kind.value(before + 1 + number, index) for number in range(ROUNDS_AFTER)}
        for index in range(len(found))
    ]
    newer = [index for index, value in enumerate(found) if value in later[index]]
    lost = [
        index for index, value in enumerate(found) if value != expected[index] and value not in later[index]
    ]
    fields = {"state": name}
    problems = []
    if newer:
        what = _named(newer, found, expected)
        sentence = f"{len(newer)} of {len(found)} {kind.words} are what the guest stored after T0: {what}."
        problems.append(Problem(Code.BESIDE_RAM_NEWER, sentence, fields))
    if lost:
        what = _named(lost, found, expected)
        sentence = (
            f"{len(lost)} of {len(found)} {kind.words} are not what the guest stored before T0: {what}."
        )
        problems.append(Problem(Code.BESIDE_RAM_LOST, sentence, fields))
    facts = {"places": len(found), "newer than T0": len(newer), "lost": len(lost)}
    return judged("restored-beside-ram", _RESTORED, problems, facts)


def judge_source_state(
    name: str, kind: StateKind, found: Sequence[int], last: int, refusal: str = ""
) -> CheckResult:
    """Check what the source guest loads from each place after the save.

    Args:
        name: of the kind.
        kind: the state.
        found: what it loads.
        last: the last round that it stored to all places.
        refusal: why it could store no more while RAM was saved, "" if it could.
    """
    code = Code.BESIDE_RAM_SOURCE
    problems = _not_as_stored(name, kind, found, last, code)
    if refusal:
        sentence = f"The guest can no longer store {kind.words} while its RAM is saved: {refusal}"
        problems = [Problem(code, sentence, {"state": name})]
    return judged("source-beside-ram", _SOURCE, problems, {"places": len(found)})


def judge_goes_on(name: str, kind: StateKind, found: Sequence[int], last: int) -> CheckResult:
    """Check what the restored guest loads after it has stored one more round."""
    problems = _not_as_stored(name, kind, found, last, Code.BESIDE_RAM_STUCK)
    return judged("restored-goes-on", _GOES_ON, problems, {"places": len(found)})


def _not_as_stored(name: str, kind: StateKind, found: Sequence[int], last: int, code: Code) -> list[Problem]:
    expected = [kind.value(last, index) for index in range(len(found))]
    wrong = [index for index, value in enumerate(found) if value != expected[index]]
    if not wrong:
        return []
    what = _named(wrong, found, expected)
    sentence = f"{len(wrong)} of {len(found)} {kind.words} are not what the guest stored last: {what}."
    return [Problem(code, sentence, {"state": name})]


def _named(indices: Sequence[int], found: Sequence[int], expected: Sequence[int]) -> str:
    named = [
        f"number {index} is {found[index]:#x} in place of {expected[index]:#x}"
        for index in indices[:_MOST_NAMED]
    ]
    return ", ".join(named) + (", ..." if len(indices) > _MOST_NAMED else "")
