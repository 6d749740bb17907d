"""Merges results: shards of one run, and runs on several machines or QEMUs.

Results are sorted into groups; each group is one run. Shards belong to one run when they were asked for the
same (profile, filter, repeat, count) and divided from the same tests, when their QEMUs and guests are the
same, and when no shard is there twice. Whole runs belong together when all of their environment is the same.

The tests of one group are put side by side and must not contradict each other. Where there are several
groups, the names of all tests begin with a label, so that each name stays unique.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.status import Status
from snapproof.report.run_result import OutcomeRecord, RunResult, Selection
from tests_functional.lib.result_files import STACK_FILE

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9.+-]+")
# Equal in all shards of one run. Host kernels may differ: a CI system may run each shard on another host.
_SAME_SUBJECT = ("qemu", "guest_image", "guest_image_digest", "host_architecture")
_SAME_STACK = (*_SAME_SUBJECT, "host", "host_kernel", "accelerator")


@dataclass(frozen=True)
class Part:
    """One of the results to be merged.

    Attributes:
        folder: its results folder.
        result: the results in it.
    """

    folder: Path
    result: RunResult

    @property
    def shard(self) -> tuple[int, int] | None:
        """Number and count of its shard, None for a whole run."""
        return self.result.selection.shard if self.result.selection else None


@dataclass(frozen=True)
class FolderCopy:
    """The folder of a test that is to be copied.

    Attributes:
        source: where it is.
        place: where it goes, relative to the merged results folder.
    """

    source: Path
    place: str


@dataclass(frozen=True)
class Merged:
    """Merged results, and the files that belong to them.

    Attributes:
        result: the results of all parts, with an outcome of status MISS for each missing shard.
        folders: the tests' folders.
        stacks: for the stack.json of each QEMU its place, and the stack.json files that it is made of.
        notes: sentences for a person: what is missing, what differs.
    """

    result: RunResult
    folders: tuple[FolderCopy, ...]
    stacks: Mapping[str, tuple[Path, ...]]
    notes: tuple[str, ...]


def merged(parts: Sequence[Part], command: Sequence[str], lost: Mapping[Path, str] | None = None) -> Merged:
    """Merge the results of one or more folders.

    Args:
        parts: the results; their order is the order of the tests.
        command: the command line of this merge.
        lost: folders of runs that ended before they had results, each with the sentence that says so.

    Raises:
        UsageError: two parts of the same run contradict each other.
    """
    groups = _groups(parts)
    labels = [""] if len(groups) == 1 else _labels([group[0].folder for group in groups])
    outcomes: list[OutcomeRecord] = []
    folders: dict[str, FolderCopy] = {}
    environment: dict[str, Any] = {}
    stacks: dict[str, tuple[Path, ...]] = {}
    notes: list[str] = []
    for label, group in zip(labels, groups, strict=True):
        for outcome, source in _one_run(group):
            placed = _under(label, outcome)
            outcomes.append(placed)
            if outcome.folder:
                folders.setdefault(placed.folder, FolderCopy(source / outcome.folder, placed.folder))
        missing = [_under(label, outcome) for outcome in _missing_shards(group)]
        outcomes += missing
        notes += [f"{outcome.name}: {outcome.sentence}" for outcome in missing]
        notes += _difference_notes(label, group) + _repeat_notes(label, group)
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
    asked = {_whole_run(part.result.selection) for part in parts}
    selection = asked.pop() if len(groups) == 1 and len(asked) == 1 else None
    result = RunResult(outcomes, started, seconds, command, environment.get("", environment), selection)
    return Merged(result, tuple(folders.values()), stacks, tuple(notes))


def _whole_run(selection: Selection | None) -> Selection | None:
    """Return the selection of the whole run that a shard is a part of."""
    return replace(selection, shard=None) if selection else None


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
    """Sort the parts into runs."""
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
    """Return a value that is equal for the parts of one run, and for runs that were asked for the same."""
    selection = part.result.selection
    if selection and selection.shard:
        # A shard may have tests of some of the run's QEMUs only.
        named = {name: _stack(found, _SAME_SUBJECT) for name, found in part.result.environments().items()}
        return _whole_run(selection), selection.shard[1], named.get("", "several QEMUs")
    environments = part.result.environments()
    if not any(name in found for found in environments.values() for name in _SAME_STACK):
        # A run on several hosts: only its tests say what each ran on.
        return frozenset(_stack(outcome.environment, _SAME_STACK) for outcome in part.result.outcomes)
    return tuple((name, _stack(found, _SAME_STACK)) for name, found in environments.items())


def _stack(environment: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    """Return the named parts of an environment, by which stacks are told apart."""
    return tuple(str(environment.get(name)) for name in names)


def _by_host(group: Sequence[Part]) -> list[list[Part]]:
    """Sort the shards of several runs that were asked for the same by the stack that they ran on.

    Raises:
        UsageError: a shard is there twice for one stack.
    """
    found: dict[Any, list[Part]] = {}
    for part in group:
        hosts = {_stack(one, _SAME_STACK) for one in part.result.environments().values()}
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


def _one_run(group: Sequence[Part]) -> list[tuple[OutcomeRecord, Path]]:
    """Return the tests of one run, each with the results folder that it comes from.

    Raises:
        UsageError: a test is in two shards, or is there twice with different statuses.
    """
    found: dict[str, tuple[OutcomeRecord, Part]] = {}
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


def _repeat_notes(label: str, group: Sequence[Part]) -> list[str]:
    """Return a sentence about tests that are in several whole runs and are shown once."""
    names = Counter(outcome.name for part in group for outcome in part.result.outcomes)
    twice = [name for name, count in names.items() if count > 1]
    if not twice:
        return []
    where = f"{label}: " if label else ""
    return [
        f"{where}{len(twice)} tests, such as '{twice[0]}', are in several of the folders, with the same "
        "host, QEMU and status. The first of each is shown."
    ]


def _missing_shards(group: Sequence[Part]) -> list[OutcomeRecord]:
    """Return an outcome of status MISS for each missing shard, without which the whole would look green."""
    if not group[0].shard:
        return []
    count = group[0].shard[1]
    there = {part.shard[0] for part in group if part.shard}
    absent = [number for number in range(1, count + 1) if number not in there]
    return [
        OutcomeRecord(
            f"shards.{number}-of-{count}",
            Status.MISS,
            f"Shard {number}/{count} is missing, so nothing is known of its tests.",
            environment=dict(group[0].result.environment),
        )
        for number in absent
    ]


def _unfinished(lost: Mapping[Path, str]) -> list[OutcomeRecord]:
    """Return an outcome of status MISS for each run that left no results."""
    return [
        OutcomeRecord(f"runs.{label}", Status.MISS, f"{sentence} Nothing is known of its tests.")
        for label, sentence in zip(_labels(list(lost)), lost.values(), strict=True)
    ]


def _difference_notes(label: str, group: Sequence[Part]) -> list[str]:
    """Return a sentence for each difference that the hosts of one run's shards may have."""
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
    """Return the environment that all parts of a run share, by label; each test keeps its own in full.

    Raises:
        UsageError: a label stands for different QEMUs in two parts.
    """
    found: dict[str, dict[str, Any]] = {}
    first: dict[str, Part] = {}
    for part in group:
        for name, environment in part.result.environments().items():
            if name not in found:
                found[name], first[name] = dict(environment), part
            if _stack(found[name], _SAME_SUBJECT) != _stack(environment, _SAME_SUBJECT):
                raise UsageError(
                    f"'{name}' is not the same in '{first[name].folder}' and '{part.folder}': QEMU "
                    f"{found[name].get('qemu')} and {environment.get('qemu')}; they are not parts of one run."
                )
            shared = found[name].items()
            found[name] = {key: value for key, value in shared if environment.get(key) == value}
    return dict(found)


def _under(label: str, outcome: OutcomeRecord) -> OutcomeRecord:
    """Put a label before the name and the folder of a test."""
    if not label:
        return outcome
    folder = f"{label}/{outcome.folder}" if outcome.folder else ""
    return replace(outcome, name=f"{label}/{outcome.name}", folder=folder)


def _labels(folders: Sequence[Path]) -> list[str]:
    """Return a unique label for each folder: its name, after those of its parents where names are equal."""
    paths = [folder.resolve().parts[1:] for folder in folders]
    for depth in range(1, max(map(len, paths)) + 1):
        labels = [_NOT_IN_A_NAME.sub("-", "-".join(parts[-depth:])).strip("-.") for parts in paths]
        if len(set(labels)) == len(labels) and all(labels):
            return labels
    return [f"run-{number}" for number in range(1, len(paths) + 1)]


def _span(parts: Sequence[Part]) -> tuple[str, float]:
    """Return when the first part began, and the seconds from then to the end of the last."""
    spans = [
        (datetime.fromisoformat(part.result.started), timedelta(seconds=part.result.seconds))
        for part in parts
    ]
    first = min(begun for begun, _ in spans)
    last = max(begun + seconds for begun, seconds in spans)
    return first.isoformat(timespec="seconds"), (last - first).total_seconds()
