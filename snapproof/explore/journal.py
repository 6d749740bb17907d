"""Reads what a campaign writes as it goes: a line for each list, and a folder for each cause."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from harness.errors import UsageError
from snapproof.explore.findings import FINDING_FILE, Finding
from tests_functional.explore.menu import readable_list
from tests_functional.explore.steps import StepList

LISTS_FILE, CORPUS_FILE, SUMMARY_FILE = "lists.jsonl", "corpus.json", "explore.json"
"""Files of a results folder: each list that was run, those that reached something new, and the summary."""


@dataclass(frozen=True)
class Entry:
    """One list that was run.

    Attributes:
        number: of the list, from 1.
        at: seconds from the beginning of the campaign to its end.
        seconds: that it took.
        status: of the list.
        signature: of its violations, empty for a list that did not fail.
        known: id of the known issue that explains them, "" for none.
        error: why it says nothing, "" if it does.
        steps: the list.
        reached: what it reached.
        proofs, pages, written_pages: what was proven; see `Record`.
    """

    number: int
    at: float
    seconds: float
    status: str
    signature: tuple[str, ...]
    known: str
    error: str
    steps: StepList
    reached: tuple[str, ...]
    proofs: int
    pages: int
    written_pages: int

    def to_json(self) -> dict[str, Any]:
        """Return its line."""
        return {**asdict(self), "steps": self.steps.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read back what `to_json` gave.

        Raises:
            UsageError, KeyError, TypeError: it has another form.
        """
        texts = {name: tuple(data[name]) for name in ("signature", "reached")}
        return cls(**{**data, **texts, "steps": readable_list(data["steps"])})


def read_entries(folder: Path) -> list[Entry]:
    """Read the lists of a campaign; a last line that was cut short is left out, and removed from the file.

    Raises:
        UsageError: there is no such file, or it has another form.
    """
    path = folder / LISTS_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"'{folder}' has no campaign to go on with: {error.strerror}.") from error
    whole = content[: content.rfind(b"\n") + 1]
    try:
        entries = [Entry.from_json(json.loads(line)) for line in whole.splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"'{path}' cannot be gone on with; it was written by another version: {error}."
        ) from error
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return entries


def read_list(path: Path) -> StepList:
    """Read one list: a steps.json, a line of lists.jsonl in a file, or `DIR:NUMBER`, a list of a campaign.

    Raises:
        UsageError: there is none.
    """
    folder, colon, number = str(path).rpartition(":")
    try:
        if colon and number.isdecimal() and not path.exists():
            return _list_of(Path(folder), int(number))
        content = json.loads(path.read_text(encoding="utf-8"))
        # A line of lists.jsonl has the list within.
        inside = isinstance(content, dict) and isinstance(content.get("steps"), dict)
        return readable_list(content["steps"] if inside else content)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"The list of steps '{path}' cannot be read: {error}.") from error


def _list_of(folder: Path, number: int) -> StepList:
    path = folder / LISTS_FILE
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            # The last line of a campaign that runs may be cut short.
            if line.endswith("\n") and json.loads(line)["number"] == number:
                return readable_list(json.loads(line)["steps"])
    raise UsageError(f"'{path}' has no list {number}.")


def read_findings(folder: Path) -> list[Finding]:
    """Read the causes of a campaign, in the order in which they were found.

    Raises:
        UsageError: one has another form.
    """
    found = []
    for path in sorted((folder / "findings").glob(f"*/{FINDING_FILE}")):
        try:
            found.append(Finding.from_json(json.loads(path.read_text(encoding="utf-8")), path.parent))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"'{path}' cannot be read: {error}.") from error
    return found
