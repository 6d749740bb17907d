"""Keep the results of mutants, take out the equivalent ones, and print the table."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests_unit.mutants.operators import Mutant

_COLUMNS = ("killed", "timed-out", "survived", "no-test", "equivalent")


@dataclass(frozen=True)
class Result:
    """What became of one mutant.

    Attributes:
        key: digest of the module, the mutant and the tests; a result with the same key is still valid.
        address: the mutant's name.
        outcome: "killed", "timed-out" (also noticed), "survived", "no-test" or "equivalent".
        test: which test noticed.
        seconds: wall time.
    """

    key: str
    address: str
    outcome: str
    test: str
    seconds: float


@dataclass(frozen=True)
class Equivalent:
    """An entry of equivalent.toml: a mutant that does what the code does, and why.

    An entry names the code by its text: it holds where lines above it move, and is an error once the code
    changes. Without column, before and after it is of every other number but 0 in the line.
    """

    file: str
    function: str
    text: str
    reason: str
    column: int | None = None
    before: str = ""
    after: str = ""

    def is_of(self, mutant: Mutant) -> bool:
        """Return whether the entry is of this mutant."""
        if (self.file, self.function, self.text) != (mutant.path, mutant.function, mutant.text):
            return False
        if self.column is None:
            return mutant.operator == "constant" and mutant.after != "(0)"
        return (self.column, self.before, self.after) == (mutant.column, mutant.before, mutant.after)


def stanza(mutant: Mutant) -> str:
    """Return a mutant as an entry of equivalent.toml that lacks its reason."""
    named = {
        "file": mutant.path,
        "function": mutant.function,
        "text": mutant.text,
        "column": mutant.column,
        "before": mutant.before,
        "after": mutant.after,
        "reason": "",
    }
    return "\n".join(
        ["[[equivalent]]", *(f"{name} = {json.dumps(value)}" for name, value in named.items()), ""]
    )


def equivalents(path: Path, mutants: Iterable[Mutant]) -> dict[str, Equivalent]:
    """Return the listed mutants by address.

    Raises:
        ValueError: an entry is of code that is no longer there, or gives no reason.
    """
    entries = [
        Equivalent(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("equivalent", [])
    ]
    by_file: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        by_file.setdefault(mutant.path, []).append(mutant)
    found = {}
    for entry in entries:
        matching = [mutant for mutant in by_file.get(entry.file, []) if entry.is_of(mutant)]
        if not matching or not entry.reason:
            raise ValueError(
                f"{path}: the entry of {entry.file}, {entry.function!r}, {entry.text!r} "
                f"({entry.before} -> {entry.after}) has no reason, or its code has changed. Remove it, and "
                "run the mutants of that file again."
            )
        found.update({mutant.address: entry for mutant in matching})
    return found


def read_results(path: Path) -> dict[str, Result]:
    """Return the results that were kept, by key."""
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            result = Result(**json.loads(line))
        except ValueError:
            continue  # The last line of a run that was broken off.
        found[result.key] = result
    return found


def append_result(path: Path, result: Result) -> None:
    """Keep one more result."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def interval(killed: int, of: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share, by Wilson's score: it also holds near 100 %."""
    if not of:
        return 0.0, 1.0
    z, share = 1.96, killed / of
    middle = share + z * z / (2 * of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - half) / (1 + z * z / of), min(1.0, (middle + half) / (1 + z * z / of))


def table(results: dict[str, list[Result]]) -> str:
    """Return the table of results: a row for each folder, or whatever `results` is by."""
    width = max([len(name) for name in results] + [6])
    lines = [f"{'':{width}}  mutants" + "".join(f"{name:>12}" for name in _COLUMNS) + "   score  (95 %)"]
    for name, some in results.items():
        counts = [sum(result.outcome == column for result in some) for column in _COLUMNS]
        noticed, of = counts[0] + counts[1], len(some) - counts[-1]
        low, high = interval(noticed, of)
        score = f"{100 * noticed / of:6.1f}%  ({100 * low:.1f} to {100 * high:.1f})" if of else "      -"
        lines.append(
            f"{name:{width}}  {len(some):7}" + "".join(f"{count:12}" for count in counts) + f"  {score}"
        )
    return "\n".join(lines)
