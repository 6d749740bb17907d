"""Several results folders as one: shards of one run, and runs of several machines or QEMUs.

Results are sorted into groups: a group is one run (merge_groups). Tests of one group are put side by side and
must not contradict one another.
Where there are several groups, the names of all tests begin with a label, so that each name stays unique.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ci.reports.merge_groups import SAME_SUBJECT, Part, groups_of, stack_of, whole
from ci.reports.result import RunResult
from harness.errors import UsageError
from harness.status import Status
from tests_functional.scenarios.outcome import Outcome
from tests_functional.scenarios.stack_file import STACK_FILE

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9.+-]+")


@dataclass(frozen=True)
class Move:
    """Files of a test, and where they go.

    Attributes:
        source: the folder of a test.
        place: relative to the merged results folder.
    """

    source: Path
    place: str


@dataclass(frozen=True)
class Merged:
    """What a merge gives.

    Attributes:
        result: of all parts, with an outcome for each shard that is missing.
        moves: folders of tests.
        stacks: where each QEMU's stack.json goes, and those of the parts that it is made of.
        notes: what a person should know: what is missing, what differs.
    """

    result: RunResult
    moves: tuple[Move, ...]
    stacks: Mapping[str, tuple[Path, ...]]
    notes: tuple[str, ...]


def merged(parts: Sequence[Part], command: Sequence[str], lost: Mapping[Path, str] | None = None) -> Merged:
    """Merge results; at least one.

    Args:
        parts: in the order that was given, which is that of the tests.
        command: that does it again.
        lost: folders of runs that were ended before they had results, each with the sentence that says so.

    Raises:
        UsageError: two parts of the same run contradict each other.
    """
    groups = groups_of(parts)
    labels = [""] if len(groups) == 1 else _labels([group[0].folder for group in groups])
    outcomes: list[Outcome] = []
    moves: dict[str, Move] = {}
    environment: dict[str, Any] = {}
    stacks: dict[str, tuple[Path, ...]] = {}
    notes: list[str] = []
    for label, group in zip(labels, groups, strict=True):
        for outcome, source in _one_run(group):
            placed = _under(label, outcome)
            outcomes.append(placed)
            if outcome.folder:
                moves.setdefault(placed.folder, Move(source / outcome.folder, placed.folder))
        missing = [_under(label, outcome) for outcome in _missing_shards(group)]
        outcomes += missing
        notes += [f"{outcome.name}: {outcome.sentence}" for outcome in missing]
        notes += _differences(label, group) + _repeats(label, group)
        for name, found in _environment(group).items():
            mine = "/".join(filter(None, (label, name)))
            environment[mine] = found
            place = "/".join(filter(None, (mine, STACK_FILE)))
            having = [part.folder for part in group if name in part.result.environments()]
            stacks[place] = tuple(folder / name / STACK_FILE for folder in having)
    unknown = _unfinished(lost) if lost else []
    outcomes += unknown
    notes += [outcome.sentence for outcome in unknown]
    started, seconds = _span(parts)
    asked = {whole(part.result.selection) for part in parts}
    selection = asked.pop() if len(groups) == 1 and len(asked) == 1 else None
    result = RunResult(outcomes, started, seconds, command, environment.get("", environment), selection)
    return Merged(result, tuple(moves.values()), stacks, tuple(notes))


def _one_run(group: Sequence[Part]) -> list[tuple[Outcome, Path]]:
    """The tests of one run, and the results folder that each comes from.

    Raises:
        UsageError: a test is there twice and ended differently, or is in two shards.
    """
    found: dict[str, tuple[Outcome, Part]] = {}
    for part in group:
        for outcome in part.result.outcomes:
            if outcome.name not in found:
                found[outcome.name] = outcome, part
                continue
            first, owner = found[outcome.name]
            if part.shard and owner.shard != part.shard:
                raise UsageError(
                    f"The test '{outcome.name}' is in two shards, '{owner.folder}' and '{part.folder}': they "
                    "were divided from different lists of tests, so some may be in none. Run them with the "
                    "same snapproof."
                )
            if first.status is not outcome.status:
                raise UsageError(
                    f"The test '{outcome.name}' ended as {first.status.value} in '{owner.folder}' and as "
                    f"{outcome.status.value} in '{part.folder}', on the same host with the same QEMU; "
                    "leave one of them out."
                )
    return [(outcome, part.folder) for outcome, part in found.values()]


def _repeats(label: str, group: Sequence[Part]) -> list[str]:
    """What of whole runs is left out, since the same test is there from another one."""
    names = Counter(outcome.name for part in group for outcome in part.result.outcomes)
    twice = [name for name, count in names.items() if count > 1]
    if not twice:
        return []
    where = f"{label}: " if label else ""
    return [
        f"{where}{len(twice)} tests, such as '{twice[0]}', are in several of the folders, on the same host "
        "with the same QEMU and with the same status; of each the first is shown."
    ]


def _missing_shards(group: Sequence[Part]) -> list[Outcome]:
    """An outcome for each shard that is not there: without it the whole must not look green."""
    if not group[0].shard:
        return []
    count = group[0].shard[1]
    there = {part.shard[0] for part in group if part.shard}
    absent = [number for number in range(1, count + 1) if number not in there]
    return [
        Outcome(
            f"shards.{number}-of-{count}",
            Status.MISS,
            f"Shard {number}/{count} is missing, so nothing is known of its tests.",
            environment=dict(group[0].result.environment),
        )
        for number in absent
    ]


def _unfinished(lost: Mapping[Path, str]) -> list[Outcome]:
    """An outcome for each run that left no results: the whole must not look green without it."""
    return [
        Outcome(f"runs.{label}", Status.MISS, f"{sentence} Nothing is known of its tests.")
        for label, sentence in zip(_labels(list(lost)), lost.values(), strict=True)
    ]


def _differences(label: str, group: Sequence[Part]) -> list[str]:
    """What differs between hosts of one run's shards, although it is taken for one run."""
    notes = []
    for name in ("host_kernel", "accelerator"):
        values = {
            str(found[name])
            for part in group
            for found in part.result.environments().values()
            if name in found
        }
        if len(values) > 1:
            where = f"{label}: " if label else ""
            notes.append(f"{where}The shards' {name} differs: {', '.join(sorted(values))}.")
    return notes


def _environment(group: Sequence[Part]) -> dict[str, Mapping[str, Any]]:
    """What all parts of a run share, by label; each test has its own in full.

    Raises:
        UsageError: a label means one QEMU in one part and another in the next.
    """
    found: dict[str, dict[str, Any]] = {}
    first: dict[str, Part] = {}
    for part in group:
        for name, environment in part.result.environments().items():
            if name not in found:
                found[name], first[name] = dict(environment), part
            if stack_of(found[name], SAME_SUBJECT) != stack_of(environment, SAME_SUBJECT):
                raise UsageError(
                    f"'{name}' is not the same in '{first[name].folder}' and '{part.folder}': QEMU "
                    f"{found[name].get('qemu')} and {environment.get('qemu')}; they are not parts of one run."
                )
            shared = found[name].items()
            found[name] = {key: value for key, value in shared if environment.get(key) == value}
    return dict(found)


def _under(label: str, outcome: Outcome) -> Outcome:
    if not label:
        return outcome
    folder = f"{label}/{outcome.folder}" if outcome.folder else ""
    return replace(outcome, name=f"{label}/{outcome.name}", folder=folder)


def _labels(folders: Sequence[Path]) -> list[str]:
    """A unique name for each group: that of its first folder, with its parents' where they are needed."""
    paths = [folder.resolve().parts[1:] for folder in folders]
    for depth in range(1, max(map(len, paths)) + 1):
        labels = [_NOT_IN_A_NAME.sub("-", "-".join(parts[-depth:])).strip("-.") for parts in paths]
        if len(set(labels)) == len(labels) and all(labels):
            return labels
    return [f"run-{number}" for number in range(1, len(paths) + 1)]


def _span(parts: Sequence[Part]) -> tuple[str, float]:
    """When the first began, and seconds from then to the end of the last."""
    spans = [
        (datetime.fromisoformat(part.result.started), timedelta(seconds=part.result.seconds))
        for part in parts
    ]
    first = min(begun for begun, _ in spans)
    last = max(begun + seconds for begun, seconds in spans)
    return first.isoformat(timespec="seconds"), (last - first).total_seconds()
