"""Which results are parts of one run: shards of it, or the same run on the same host.

Shards belong together when they were asked for the same (profile, filter, repeat, count) and divided from the
same tests, their QEMUs and guests are the same, and no shard is there twice; whole runs when all of their
environment is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ci.reports.result import RunResult, Selection
from harness.errors import UsageError

# What makes two shards parts of one run; kernels of CI systems' hosts may differ a little.
SAME_SUBJECT = ("qemu", "guest_image", "guest_image_digest", "host_architecture")
_SAME_STACK = (*SAME_SUBJECT, "host", "host_kernel", "accelerator")


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


def whole(selection: Selection | None) -> Selection | None:
    """What the whole run was asked for, of which a shard is a part."""
    return replace(selection, shard=None) if selection else None


def groups_of(parts: Sequence[Part]) -> list[list[Part]]:
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
        named = {name: stack_of(found, SAME_SUBJECT) for name, found in part.result.environments().items()}
        return whole(selection), selection.shard[1], named.get("", "several QEMUs")
    environments = part.result.environments()
    if not any(name in found for found in environments.values() for name in _SAME_STACK):
        # A run on several hosts: only its tests say what each ran on.
        return frozenset(stack_of(outcome.environment, _SAME_STACK) for outcome in part.result.outcomes)
    return tuple((name, stack_of(found, _SAME_STACK)) for name, found in environments.items())


def stack_of(environment: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    """What of an environment tells stacks apart."""
    return tuple(str(environment.get(name)) for name in names)


def _by_host(group: Sequence[Part]) -> list[list[Part]]:
    """Shards of several runs that were asked for the same, by what they ran on."""
    found: dict[Any, list[Part]] = {}
    for part in group:
        hosts = {stack_of(one, _SAME_STACK) for one in part.result.environments().values()}
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
