"""Measure which tests run which lines, so that a mutant is tried with those alone, the fastest first."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage

from tests_unit.mutants.areas import NOT_TRIED, TESTS
from tests_unit.mutants.copied import code_digest, digest
from tests_unit.mutants.operators import Mutant
from tests_unit.mutants.trial import Request
from tests_unit.mutants.workers import Worker, in_parallel


@dataclass(frozen=True)
class Lines:
    """Which tests run which lines.

    Attributes:
        seconds: what each test takes, without tracing.
        tests: for each module and line the tests that run it; not those that only import it.
        broken: the tests that fail without a mutant; no mutant is tried with them.
    """

    seconds: dict[str, float]
    tests: dict[str, dict[int, list[str]]]
    broken: list[str]

    def of(self, mutant: Mutant, users: dict[str, list[str]]) -> dict[str, dict[str, float]]:
        """Return the tests to try a mutant with: for each file its tests and their seconds, fastest first.

        Args:
            mutant: which mutant.
            users: for each module those that import it.
        """
        first, last = mutant.lines
        here = self.tests.get(mutant.path, {})
        if mutant.at_import:
            # Values that are made at import are used by any code of the module, and by others.
            paths = [mutant.path, *users.get(mutant.path, [])]
            found = {test for path in paths for tests in self.tests.get(path, {}).values() for test in tests}
        else:
            found = {test for line in range(first, last + 1) for test in here.get(line, [])}
        return _by_file({test: self.seconds[test] for test in found if test in self.seconds})


def _by_file(seconds: dict[str, float]) -> dict[str, dict[str, float]]:
    files: dict[str, dict[str, float]] = {}
    for test, taken in sorted(seconds.items(), key=lambda item: (item[1], item[0])):
        files.setdefault(test.partition("::")[0], {})[test] = taken
    return dict(sorted(files.items(), key=lambda item: (sum(item[1].values()), item[0])))


def importers(root: Path, paths: list[str]) -> dict[str, list[str]]:
    """Return for each module those of `paths` that import it."""
    found: dict[str, list[str]] = {}
    for path in paths:
        for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                base = node.module.replace(".", "/")
                for name in (f"{base}.py", *(f"{base}/{alias.name}.py" for alias in node.names)):
                    if (root / name).is_file():
                        found.setdefault(name, []).append(path)
    return found


def test_files(root: Path) -> list[str]:
    """Return the test files that mutants are tried with."""
    found = {path.relative_to(root).as_posix() for one in TESTS for path in (root / one).rglob("test_*.py")}
    return sorted(found | {one for one in TESTS if one.endswith(".py")})


def measured(root: Path, cache: Path, jobs: int) -> Lines:
    """Return which tests run which lines of this tree; what `cache` has of unchanged code and tests is taken.

    Each test file is traced as it will run with a mutant: in a fork of its own, in a copy of the tree.
    """
    folder = cache / f"lines-{code_digest(root)}"
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        file: folder / f"{file.replace('/', '.')}-{digest(root, [file])}.json" for file in test_files(root)
    }

    def trace(one: Worker, file: str) -> None:
        draft = kept[file].with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(_traced(one, file)), encoding="utf-8")
        draft.replace(kept[file])

    new = [file for file, path in kept.items() if not path.is_file()]
    if new:
        in_parallel(root, min(jobs, len(new)), new, trace)
    known = [json.loads(path.read_text(encoding="utf-8")) for path in kept.values()]
    tests: dict[str, dict[int, list[str]]] = {}
    for one in known:
        for path, lines in one["tests"].items():
            for line, names in lines.items():
                tests.setdefault(path, {}).setdefault(int(line), []).extend(names)
    seconds = {test: taken for one in known for test, taken in one["seconds"].items()}
    return Lines(seconds, tests, [test for one in known for test in one["broken"]])


def _traced(one: Worker, file: str) -> dict[str, Any]:
    """Return the seconds of the tests of a file, the lines that they run, and those that fail."""
    data_file = one.tree / ".coverage"
    data_file.unlink(missing_ok=True)
    answer = one.run(Request("", "", {file: {}}, stop=False, trace=str(data_file), without=NOT_TRIED))
    return {
        "seconds": {test: taken for test, taken in answer.seconds.items() if test not in answer.failed},
        "tests": _read(data_file, one.tree),
        "broken": answer.failed,
    }


def _read(data_file: Path, tree: Path) -> dict[str, dict[int, list[str]]]:
    data = coverage.CoverageData(str(data_file))
    data.read()
    return {
        Path(file).relative_to(tree).as_posix(): {
            line: [test for test in contexts if test]
            for line, contexts in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
