"""Recognises known issues of Linux (docs/findings.md) in a list: by what leads to them, and by code."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Callable

from .executor import Record
from .session import GAINED, HANG, LOST, SPIN, UNREPORTED
from .steps import MemoryList, Step


@dataclass(frozen=True)
class Issue:
    """A known issue.

    Attributes:
        name: in docs/findings.md.
        codes: of records that it explains.
        leads: returns whether steps lead to it.
        fits: returns whether a record may be of it, given the steps up to the one that showed it.
    """

    name: str
    codes: tuple[str, ...]
    leads: Callable[[Sequence[Step]], bool]
    fits: Callable[[Record, Sequence[Step]], bool]


def _merged(steps: Sequence[Step]) -> bool:
    """KSM is asked to merge pages."""
    return any(step.kind == "merge" for step in steps)


def _merged_there(record: Record, steps: Sequence[Step]) -> bool:
    return any(step.kind == "merge" and step.arguments["on"] == record.fields.get("kind") for step in steps)


def _guarded(steps: Sequence[Step]) -> bool:
    return any(step.kind == "guard" for step in steps)


def _in_guard(_record: Record, steps: Sequence[Step]) -> bool:
    return bool(steps) and steps[-1].kind == "guard"


def _moved(steps: Sequence[Step]) -> bool:
    """A page moves that may be in swap space."""
    out = [at for at, step in enumerate(steps) if step.kind == "pageout"]
    moves = [at for at, step in enumerate(steps) if step.kind == "move"]
    return bool(out and moves and out[0] < moves[-1])


def _by_move(record: Record, steps: Sequence[Step]) -> bool:
    return bool(record.fields.get("moved")) and _moved(steps)


ISSUES = (
    Issue("F15", (LOST, UNREPORTED), _merged, _merged_there),
    Issue("F42", (SPIN, HANG), _guarded, _in_guard),
    Issue("F43", (GAINED,), _moved, _by_move),
)
"""The known issues of Linux that a list can show."""


def known_issue(steps: MemoryList, record: Record) -> str:
    """Return the name of the known issue that explains a record, empty for none."""
    taken = steps.steps[: record.at + 1]
    for issue in ISSUES:
        if record.code in issue.codes and issue.leads(taken) and issue.fits(record, taken):
            return issue.name
    return ""


def leads_to_known(steps: MemoryList, names: Container[str]) -> bool:
    """Return whether a list leads to one of these known issues."""
    return any(issue.name in names and issue.leads(steps.steps) for issue in ISSUES)
