"""Judges what a stream delivers after T0: each item once, in order, and none of another time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.codes import Code
from harness.errors import SnapproofError, SubjectFailed
from harness.qemu.messages import said
from validators.checks import Problem, judged
from validators.verdict import CheckResult

_CLAIM = "What was in flight at T0 arrives once and in order, before what is sent later."
_LIVES = "QEMU saves the guest, and goes on."
_MOST_NAMED = 4


@dataclass(frozen=True)
class Expected:
    """What a stream has to deliver.

    Attributes:
        items: numbers of the items, in order.
        consumed: those that had arrived before T0.
        of_source: those that were sent to the source after T0; empty where the source is judged.
        ordered: whether the order of the items is promised.
        may_lose: items that the kind of stream may lose: a network makes no promise.
        broken: virtio devices that QEMU has given up, from which nothing can arrive any more.
    """

    items: Sequence[int]
    consumed: Collection[int]
    of_source: Collection[int] = ()
    ordered: bool = True
    may_lose: Collection[int] = ()
    broken: Sequence[str] = ()


def judge_stream(
    name: str, found: Sequence[int], expected: Expected, error: SnapproofError | None = None
) -> CheckResult:
    """Check what a stream has delivered.

    Args:
        name: the check's.
        found: numbers of the items, in the order in which they arrived.
        expected: what had to arrive.
        error: why the stream did not go on, None where it did.
    """
    problems = []
    if error is not None:
        sentence = f"The device does not go on: {error.sentence}"
        problems.append(Problem(Code.IN_FLIGHT_SILENT, sentence))
    wanted, count = set(expected.items), Counter(found)
    lost = [number for number in expected.items if number not in count]
    again = [number for number in count if count[number] > 1 or number in expected.consumed]
    newer = [number for number in count if number in expected.of_source]
    known = wanted.union(expected.consumed, expected.of_source)
    unknown = [number for number in count if number not in known]
    told = [number for number in lost if number not in expected.may_lose]
    for device in expected.broken:
        sentence = f"QEMU has given up the device '{device}', and {len(told)} items do not arrive."
        problems.append(Problem(Code.IN_FLIGHT_BROKEN, sentence, {"device": device}))
    if expected.broken:
        told = []
    for code, numbers, what in (
        (Code.IN_FLIGHT_LOST, told, "do not arrive"),
        (Code.IN_FLIGHT_TWICE, again, "arrive again"),
        (Code.IN_FLIGHT_AFTER_T0, newer, "were sent to the source after T0 and arrive in the restored guest"),
        (Code.IN_FLIGHT_UNKNOWN, unknown, "arrive and were never sent"),
    ):
        if numbers:
            problems.append(Problem(code, f"{len(numbers)} items {what}: {_named(numbers)}."))
    firsts = [number for number in dict.fromkeys(found) if number in wanted]
    if expected.ordered and firsts != [number for number in expected.items if number in count]:
        sentence = f"Items arrive in another order than they were sent: {_named(firsts)}."
        problems.append(Problem(Code.IN_FLIGHT_DISORDER, sentence))
    facts = {"items": len(wanted), "items lost": len(lost)}
    return judged(name, _CLAIM, problems, facts)


def judge_lost_source(label: str, error: SubjectFailed) -> CheckResult:
    """Return the check of a QEMU that has ended while it saved the guest.

    Args:
        label: of the save.
        error: how it ended.
    """
    fields = {**error.fields, **said(error.sentence)}
    return judged(f"{label}/source", _LIVES, [Problem(error.code, error.sentence, fields)])


def _named(numbers: Sequence[int]) -> str:
    more = ", ..." if len(numbers) > _MOST_NAMED else ""
    return ", ".join(str(number) for number in numbers[:_MOST_NAMED]) + more
