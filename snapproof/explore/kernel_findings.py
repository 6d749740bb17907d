"""Writes a failing list of memory operations: the list, a test in Python, a C program and a draft."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snapproof.explore.findings import STEPS_FILE
from snapproof.explore.journal import CORPUS_FILE, SUMMARY_FILE
from snapproof.explore.results import RUNNING
from tests_functional.kernel.explore.c_program import program
from tests_functional.kernel.explore.steps import MemoryList
from tests_functional.lib.outcome import write_atomically


def write_finding(event: Mapping[str, Any], folder: Path, host: Mapping[str, Any]) -> None:
    """Write what a `finding` event says into a folder.

    Args:
        event: the event.
        folder: made for it.
        host: the `host` event.

    Raises:
        OSError: the disk is full.
    """
    folder.mkdir(parents=True)
    steps = MemoryList.from_json(event["steps"])
    write_atomically(folder / STEPS_FILE, json.dumps(event["steps"], indent=1) + "\n")
    write_atomically(folder / "test_explored.py", _test_text(steps, event))
    text, reason = program(steps, event["record"])
    if text:
        write_atomically(folder / "reproduce.c", text)
    write_atomically(folder / "finding.md", _draft(steps, event, host, reason))
    write_atomically(folder / "finding.json", json.dumps(dict(event), indent=1) + "\n")


def _test_text(steps: MemoryList, event: Mapping[str, Any]) -> str:
    """Return a test in Python that takes the steps."""
    lines = "\n".join(f"        Step({step.kind!r}, {dict(step.arguments)!r})," for step in steps.steps)
    return f'''"""Takes the steps after which: {_sentence(event)}"""

from tests_functional.kernel.explore.executor import Setting
from tests_functional.kernel.explore.steps import MemoryList, Monitor, Step
from tests_functional.kernel.explore.worker import Patience, Worker

STEPS = MemoryList(
    {steps.monitor!r},
    (
{lines}
    ),
)


def test_explored() -> None:
    """The kernel does what the model allows."""
    with Worker(Setting(), Patience()) as worker:
        record = worker.run(STEPS)
    assert not record.code and not record.error, record.sentence
'''


def _sentence(event: Mapping[str, Any]) -> str:
    return " ".join(str(event["record"]["sentence"]).split()).replace('"""', "'''")


def _draft(steps: MemoryList, event: Mapping[str, Any], host: Mapping[str, Any], reason: str) -> str:
    """Return the draft of an entry of docs/findings.md."""
    lines = "\n".join(f"{number}. `{step.words}`" for number, step in enumerate(steps.steps, 1))
    c_program = f"There is no C program: {reason}." if reason else "`cc -pthread reproduce.c && ./a.out`."
    return f"""## F9xx: {_sentence(event)}

**Seen** on Linux {host.get("kernel", "?")}, userfaultfd {steps.monitor.words}; in {event["failed"]} of
{event["tried"]} runs of the first list, which came after {event["lists"]} lists (seed {event["seed"]}).

{lines or "No step is needed."}

Code: `{event["signature"]}`.{f" Known issue {event['known']}." if event["known"] else ""}

**Reproduce**: `snapproof explore --kernel --replay steps.json`; without snapproof: {c_program}

**Cause**: not looked into.
"""


def write_summary(
    folder: Path,
    started: str,
    host: Mapping[str, Any],
    found: Sequence[Mapping[str, Any]],
    end: Mapping[str, Any],
    state: str = RUNNING,
) -> dict[str, Any]:
    """Write explore.json, as campaigns around snapshots have it, and corpus.json; return the first.

    Args:
        folder: the results folder.
        started: UTC time of the beginning.
        host: the `host` event.
        found: the `finding` events, each with its folder.
        end: the last `end` or `so-far` event, empty before the first.
        state: of the campaign.

    Raises:
        OSError: the disk is full.
    """
    known = [one for one in found if one["known"]]
    summary: dict[str, Any] = {
        "version": 1,
        "kernel": True,
        "host": dict(host),
        "environment": {
            "host_kernel": host.get("kernel", ""),
            "host_architecture": host.get("machine", ""),
            "host_cpus": host.get("cpus", 0),
            "kernel_lists": True,
        },
        "seed": end.get("seed"),
        "seeds": [end["seed"]] if "seed" in end else [],
        "state": state,
        "started": started,
        "seconds": end.get("seconds", 0.0),
        "lists": end.get("lists", 0),
        "proofs": 0,
        "pages_compared": end.get("checked", 0),
        "pages_written_during_saves": 0,
        "without_verdict": [why for why, times in end.get("errors", {}).items() for _ in range(times)],
        "known_issues": dict(end.get("known", {})),
        "known_lists": [dict(one) for one in known],
        "known_shown": _shown(known),
        "findings": [_cause(one) for one in found if not one["known"]],
        "growth": [],
        "reached": dict(end.get("reached", {})),
    }
    write_atomically(folder / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    corpus = {"version": 1, "lists": end.get("corpus", [])}
    write_atomically(folder / CORPUS_FILE, json.dumps(corpus) + "\n")
    return summary


def _shown(known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return by known issue the list that showed it first, and the folder with its files."""
    found: dict[str, Any] = {}
    for event in known:
        shown = {"list": event["lists"], "folder": f"findings/{event['folder']}"}
        found.setdefault(event["known"], shown)
    return found


def _cause(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `finding` event in the form of a cause around snapshots."""
    record = event["record"]
    violation = {
        "check": "explore", "code": record["code"], "sentence": record["sentence"], "fields": {},
    }  # fmt: skip
    return {
        **event,
        "signature": [event["signature"]],
        "sentence": record["sentence"],
        "times": 1,
        "stable": f"{event['failed']} of {event['tried']}",
        "violations": [violation],
    }
