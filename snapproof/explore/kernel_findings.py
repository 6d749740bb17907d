"""Writes a failing list of memory operations: the list, a test in Python, a C program and a draft."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snapproof.explore.findings import STEPS_FILE
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
