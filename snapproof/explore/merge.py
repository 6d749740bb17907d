"""Merges campaigns: figures, what was reached, corpora and causes, each cause once."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from snapproof.explore.folder import job_folders
from snapproof.explore.journal import CORPUS_FILE, SUMMARY_FILE
from snapproof.explore.results import ENDED, INTERRUPTED, RUNNING
from tests_functional.lib.outcome import write_atomically

_SUMMED = ("lists", "proofs", "pages_compared", "pages_written_during_saves", "seconds")
# Of stacks that are the same: others are other campaigns.
_SAME = ("qemu", "guest_image_digest", "kernel_lists")


@dataclass(frozen=True)
class Part:
    """One of the campaigns that are merged.

    Attributes:
        folder: its results folder.
        summary: the content of its explore.json.
    """

    folder: Path
    summary: Mapping[str, Any]


def is_campaign(folder: Path) -> bool:
    """Return whether a results folder is that of a campaign around snapshots."""
    return (folder / SUMMARY_FILE).is_file()


def campaigns_in(folder: Path) -> list[Path]:
    """Return the folders of the campaigns in a results folder: itself, or those of `--jobs` that did not end.

    Empty if it has none.
    """
    if is_campaign(folder):
        return [folder]
    return [place for place in job_folders(folder) if is_campaign(place)]


def read_part(folder: Path) -> Part:
    """Read a campaign, also one that was killed or still runs.

    Raises:
        UsageError: its files cannot be read, or are not those of this version.
    """
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        missing = {*_SUMMED, "reached", "known_issues", "findings", "seeds", "started"} - summary.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"'{folder / SUMMARY_FILE}' cannot be read: {error}.") from error
    if missing:
        raise UsageError(
            f"'{folder / SUMMARY_FILE}' cannot be merged: it has no {', '.join(sorted(missing))}."
        )
    return Part(folder, summary)


def merge_campaigns(
    parts: Sequence[Part], output: Path, jobs: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Merge campaigns into a folder that there is, and return the content of its explore.json.

    Args:
        parts: the campaigns.
        output: the folder.
        jobs: how each of several campaigns side by side has ended.

    Raises:
        UsageError: they are of different QEMUs or guests, or a seed is there twice.
        OSError: the disk is full.
    """
    require_alike(parts)
    summaries = [part.summary for part in parts]
    jobs = [*jobs, *_earlier_jobs(parts)]
    merged: dict[str, Any] = {
        "version": 1,
        "environment": _shared([summary["environment"] for summary in summaries]),
        "seeds": [seed for summary in summaries for seed in summary["seeds"]],
        "state": _state(summaries),
        **({"jobs": jobs} if jobs else {}),
        "started": min(summary["started"] for summary in summaries),
        **{name: sum(summary[name] for summary in summaries) for name in _SUMMED},
        "without_verdict": [why for summary in summaries for why in summary["without_verdict"]],
        "known_issues": _total(summaries, "known_issues"),
        "known_shown": _shown(parts, output),
        "findings": _causes(parts, output),
        "growth": [],
        "kinds": list(dict.fromkeys(kind for summary in summaries for kind in summary.get("kinds", ()))),
        "reached": _total(summaries, "reached"),
    }
    write_atomically(output / SUMMARY_FILE, json.dumps(merged, indent=1) + "\n")
    corpus = {"version": 1, "lists": _corpus(parts)}
    write_atomically(output / CORPUS_FILE, json.dumps(corpus, indent=1) + "\n")
    return merged


def require_alike(parts: Sequence[Part]) -> None:
    """Check that campaigns can be merged.

    Raises:
        UsageError: they are of different QEMUs or guests, or a seed is there twice.
    """
    first = parts[0]
    kernel = next((part for part in parts if part.summary["environment"].get("kernel_lists")), None)
    qemu = next((part for part in parts if not part.summary["environment"].get("kernel_lists")), None)
    if kernel and qemu:
        raise UsageError(
            f"'{kernel.folder}' is a campaign of the kernel, and '{qemu.folder}' one of QEMU "
            f"{qemu.summary['environment'].get('qemu')}: merge those of one kind."
        )
    for part in parts[1:]:
        for name in _SAME:
            one, other = (found.summary["environment"].get(name) for found in (first, part))
            if one != other:
                raise UsageError(
                    f"'{first.folder}' and '{part.folder}' are campaigns of different stacks: {name} is "
                    f"'{one}' and '{other}'. Merge those of one stack."
                )
    seeds = Counter(seed for part in parts for seed in part.summary["seeds"])
    twice = [str(seed) for seed, times in seeds.items() if times > 1]
    if twice:
        raise UsageError(f"Seed {twice[0]} is in two of the campaigns: the same lists would count twice.")


def _earlier_jobs(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return how the jobs of parts that were merged before ended; their folders are not in the output."""
    return [
        {**job, "folder": f"{number}-{job['folder']}", "log": str(part.folder / job["log"]), "kept": False}
        for number, part in enumerate(parts, 1)
        for job in part.summary.get("jobs", ())
    ]


def _state(summaries: Sequence[Mapping[str, Any]]) -> str:
    """Return the worst state of several campaigns; one without a state is older, and taken as ended."""
    states = {summary.get("state", ENDED) for summary in summaries}
    return next((state for state in (INTERRUPTED, RUNNING) if state in states), ENDED)


def _shown(parts: Sequence[Part], output: Path) -> dict[str, Any]:
    """Return the list that showed each known issue in the first campaign that met it.

    Its files stay where they are: below the output, where campaigns ran side by side, or not in the output.
    """
    found: dict[str, Any] = {}
    for part in parts:
        inside = part.folder.is_relative_to(output)
        for issue, shown in part.summary.get("known_shown", {}).items():
            folder = str((part.folder / shown["folder"]).relative_to(output)) if inside else ""
            found.setdefault(issue, {"seed": part.summary.get("seed"), **shown, "folder": folder})
    return found


def _shared(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = environments[0]
    return {
        name: value for name, value in first.items() if all(one.get(name) == value for one in environments)
    }


def _total(summaries: Sequence[Mapping[str, Any]], name: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for summary in summaries:
        found.update(summary[name])
    return dict(sorted(found.items()))


def _causes(parts: Sequence[Part], output: Path) -> list[dict[str, Any]]:
    """Return each cause once, with its folder copied; the shortest list is kept."""
    by_signature: dict[tuple[str, ...], list[tuple[Part, Mapping[str, Any]]]] = {}
    for part in parts:
        for finding in part.summary["findings"]:
            by_signature.setdefault(tuple(finding["signature"]), []).append((part, finding))
    found = []
    for number, seen in enumerate(by_signature.values(), 1):
        part, finding = min(seen, key=lambda one: len(one[1]["steps"]["steps"]))
        folder = f"{number:02d}-{finding['folder'].partition('-')[2]}"
        source = part.folder / "findings" / finding["folder"]
        if source.is_dir():
            shutil.copytree(source, output / "findings" / folder, ignore=shutil.ignore_patterns("runs"))
        found.append({**finding, "folder": folder, "times": sum(one["times"] for _, one in seen)})
    return found


def _corpus(parts: Sequence[Part]) -> list[Any]:
    found: dict[str, Any] = {}
    for part in parts:
        path = part.folder / CORPUS_FILE
        if path.is_file():
            for steps in json.loads(path.read_text(encoding="utf-8"))["lists"]:
                found.setdefault(json.dumps(steps, sort_keys=True), steps)
    return list(found.values())
