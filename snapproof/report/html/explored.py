"""Makes the part of report.html that shows a campaign: figures, and the steps by state of the save."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snapproof.report.html.checked import clean, duration, items, mapping, number
from snapproof.report.html.views import Cell, ExploredView

EXPLORE_FILE = "explore.json"
_FILE_BYTES = 64 << 20
_ROWS, _COLUMNS, _NAME = 100, 16, 40
# States of a save, in their order; other campaigns have the places of their steps.
_STATES = ("before", "early", "saving", "saving-stopped", "ending", "stalled", "after")
_FIGURES = {
    "lists": "lists",
    "proofs": "snapshots judged as a whole",
    "pages_compared": "pages compared",
    "pages_written_during_saves": "pages written during saves",
}


def explored_beside(folder: Path) -> ExploredView | None:
    """Return the view of the explore.json in a results folder, None if there is none."""
    path = folder / EXPLORE_FILE
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _FILE_BYTES:
            return ExploredView(f"{EXPLORE_FILE} is larger than {_FILE_BYTES >> 20} MiB and was not read.")
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError) as error:
        return ExploredView(f"{EXPLORE_FILE} could not be read: {clean(error, 200)}.")
    return explored_view(mapping(content))


def explored_view(content: Mapping[str, Any]) -> ExploredView:
    """Return what the page shows of a campaign; what is missing or of another type is left out."""
    taken = _taken(mapping(content.get("reached")))
    states = [name for name in _STATES if any(state == name for _, state in taken)]
    states += sorted({state for _, state in taken} - set(states))
    states = states[:_COLUMNS]
    kinds = [clean(name, _NAME) for name in items(content.get("kinds"), _ROWS)]
    kinds += sorted({kind for kind, _ in taken} - set(kinds))
    rows = [(kind, [Cell(taken[kind, state]) for state in states]) for kind in kinds[:_ROWS]]
    covered = sum(cell.times > 0 for _, cells in rows for cell in cells)
    facts = [
        (words, f"{number(content.get(name)):,.0f}") for name, words in _FIGURES.items() if name in content
    ]
    facts.append(("time", duration(number(content.get("seconds")))))
    facts.append(("seeds", clean(", ".join(str(seed) for seed in items(content.get("seeds"), 100)))))
    facts.append(("things reached", f"{len(mapping(content.get('reached'))):,}"))
    facts.append(("lists without a verdict", f"{len(items(content.get('without_verdict'))):,}"))
    facts.append(("causes that are not in the baseline", f"{len(items(content.get('findings'))):,}"))
    return ExploredView("", facts, states, rows, (covered, len(rows) * len(states)))


def _taken(reached: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """Return how often each kind of step was taken in each state, from names such as `stop in saving/...`."""
    found: Counter[tuple[str, str]] = Counter()
    for name, times in reached.items():
        kind, there, place = str(name).partition(" in ")
        # Commands of QEMU are counted by themselves, as "NAME accepted in STATE".
        if there and " " not in kind:
            state = place.partition("/")[0].partition(":")[0]
            found[clean(kind, _NAME), clean(state, _NAME)] += int(number(times))
    return found
