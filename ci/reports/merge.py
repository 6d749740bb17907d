"""Several results folders as one: shards of one run, and runs of several machines or QEMUs.

Results are sorted into groups: a group is one run. Shards belong together when they were asked for the same
(profile, filter, repeat, count), their QEMUs and guests are the same, and no shard is there twice; whole runs
when all of their environment is the same. Tests of one group are put side by side and must not contradict one
another.
Where there are several groups, the names of all tests begin with a label, so that each name stays unique.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from ci.reports.result import RunResult, Selection
from harness.errors import UsageError
from harness.status import Status
from tests_functional.scenarios.outcome import Outcome
from tests_functional.scenarios.stack_file import STACK_FILE

# What makes two shards parts of one run; kernels of CI systems' hosts may differ a little.
_SAME_SUBJECT = ("qemu", "guest_image", "guest_image_digest", "host_architecture")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9.+-]+")
_SAME_STACK = (*_SAME_SUBJECT, "host", "host_kernel", "accelerator")


@dataclass(frozen=True)
class Part:
    """One of the results that are merged.

    Attributes:
        folder: its results folder.
        result: what is in it.
    """

    folder: Path
    result: RunResult

    @property
    def shard(self) -> tuple[int, int] | None:
        """Number and count of its shard, None for a whole run."""
        return self.result.selection.shard if self.result.selection else None


@dataclass(frozen=True)
class Move:
    """Files of a part, and where they go.

    Attributes:
        source: the folder of a test, or a file.
        place: relative to the merged results folder.
    """

    source: Path
    place: str


@dataclass(frozen=True)
class Merged:
    """What a merge gives.

    Attributes:
        result: of all parts, with an outcome for each shard that is missing.
        moves: folders of tests, and each QEMU's stack.json.
        notes: what a person should know: what is missing, what differs.
    """

    result: RunResult
    moves: tuple[Move, ...]
    notes: tuple[str, ...]


def merged(parts: Sequence[Part], command: Sequence[str]) -> Merged:
    """Merge results; at least one.

    Args:
        parts: in the order that was given, which is that of the tests.
        command: that does it again.

    Raises:
        UsageError: two parts of the same run contradict each other.
    """
    groups = _groups(parts)
    labels = [""] if len(groups) == 1 else _labels([group[0].folder for group in groups])
    outcomes: list[Outcome] = []
    moves: dict[str, Move] = {}
    environment: dict[str, Any] = {}
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
        notes += _differences(label, group)
        for name, found in _environment(group).items():
            mine = "/".join(filter(None, (label, name)))
            environment[mine] = found
            place = "/".join(filter(None, (mine, STACK_FILE)))
            moves[place] = Move(group[0].folder / name / STACK_FILE, place)
    started, seconds = _span(parts)
    asked = {_whole(part.result.selection) for part in parts}
    selection = asked.pop() if len(groups) == 1 and len(asked) == 1 else None
    result = RunResult(outcomes, started, seconds, command, environment.get("", environment), selection)
    return Merged(result, tuple(moves.values()), tuple(notes))


def _whole(selection: Selection | None) -> Selection | None:
    """What the whole run was asked for, of which a shard is a part."""
    return replace(selection, shard=None) if selection else None


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts by the run that they belong to."""
    alike: dict[Any, list[Part]] = {}
    for part in parts:
        alike.setdefault(_key(part), []).append(part)
    groups: list[list[Part]] = []
    for group in alike.values():
        numbers = [part.shard for part in group]
        if numbers[0] is None or len(set(numbers)) == len(numbers):
            groups.append(group)
        else:
            groups += _by_host(group)
    return groups


def _key(part: Part) -> Any:
    selection = part.result.selection
    if selection and selection.shard:
        # A shard may have tests of some of the run's QEMUs only.
        named = {name: _stack_of(found, _SAME_SUBJECT) for name, found in part.result.environments().items()}
        return _whole(selection), selection.shard[1], named.get("", "several QEMUs")
    environments = part.result.environments().items()
    return tuple((name, _stack_of(found, _SAME_STACK)) for name, found in environments)


def _stack_of(environment: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(environment.get(name)) for name in names)


def _by_host(group: Sequence[Part]) -> list[list[Part]]:
    """Shards of several runs that were asked for the same, by what they ran on."""
    found: dict[Any, list[Part]] = {}
    for part in group:
        hosts = {_stack_of(one, _SAME_STACK) for one in part.result.environments().values()}
        found.setdefault(frozenset(hosts), []).append(part)
    for one in found.values():
        seen: dict[tuple[int, int] | None, Part] = {}
        for part in one:
            if part.shard in seen and part.shard:
                number, count = part.shard
                raise UsageError(
                    f"Shard {number}/{count} of the same run is there twice: '{seen[part.shard].folder}' and "
                    f"'{part.folder}'."
                )
            seen[part.shard] = part
    return list(found.values())


def _one_run(group: Sequence[Part]) -> list[tuple[Outcome, Path]]:
    """The tests of one run, and the results folder that each comes from.

    Raises:
        UsageError: a test is there twice and ended differently.
    """
    found: dict[str, tuple[Outcome, Path]] = {}
    for part in group:
        for outcome in part.result.outcomes:
            if outcome.name not in found:
                found[outcome.name] = outcome, part.folder
                continue
            first, folder = found[outcome.name]
            if first.status is not outcome.status:
                raise UsageError(
                    f"The test '{outcome.name}' ended as {first.status.value} in '{folder}' and as "
                    f"{outcome.status.value} in '{part.folder}', on the same host with the same QEMU; "
                    "leave one of them out."
                )
    return list(found.values())


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
            if _stack_of(found[name], _SAME_SUBJECT) != _stack_of(environment, _SAME_SUBJECT):
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
