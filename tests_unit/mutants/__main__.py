"""Command: try mutants of an area, and say which of them no test notices."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests_unit.mutants.areas import AREAS, NOT_TRIED, Area
from tests_unit.mutants.copied import digest, tree_files
from tests_unit.mutants.lines import Lines, importers, measured
from tests_unit.mutants.operators import Mutant, mutants_of
from tests_unit.mutants.report import (
    Result,
    append_result,
    equivalents,
    read_results,
    stanza,
    table,
)
from tests_unit.mutants.trial import Request
from tests_unit.mutants.workers import Worker, in_parallel

_ROOT = Path(__file__).parents[2]
_CACHE = _ROOT / "build" / "mutants"
_EQUIVALENT = Path(__file__).parent / "equivalent.toml"


@dataclass(frozen=True)
class _Job:
    """A mutant, the module with it, the tests to try it with, and the key of its result."""

    mutant: Mutant
    source: str
    tests: dict[str, dict[str, float]]
    key: str


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests_unit.mutants", description=__doc__)
    names = [area.name for area in AREAS]
    parser.add_argument(
        "areas", nargs="*", metavar="AREA", help=f"{', '.join(names)}; all of them by default"
    )
    parser.add_argument(
        "--path", action="append", default=[], help="only modules below this path (repeatable)"
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="try N mutants of each area, chosen by --seed"
    )
    parser.add_argument("--seed", type=int, default=1, help="for --sample (default: %(default)s)")
    parser.add_argument(
        "--mutant", action="append", default=[], metavar="ADDRESS", help="only this one (repeatable)"
    )
    parser.add_argument("--tests", nargs="+", metavar="FILE", help="try with all tests of these files alone")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="at a time (default: %(default)s)"
    )
    parser.add_argument("--results", type=Path, default=_CACHE / "results.jsonl", help="default: %(default)s")
    parser.add_argument("--list", action="store_true", help="list the mutants, and try none")
    return parser


def _chosen(arguments: argparse.Namespace, area: Area, mutants: list[Mutant]) -> list[Mutant]:
    some = [
        mutant
        for mutant in mutants
        if (not arguments.path or mutant.path.startswith(tuple(arguments.path)))
        and (not arguments.mutant or mutant.address in arguments.mutant)
    ]
    if arguments.sample is not None:
        random.Random(f"{arguments.seed} {area.name}").shuffle(some)
        some = some[: arguments.sample]
    return some


def _key(mutant: Mutant, tests: dict[str, dict[str, float]], support: str) -> str:
    source = (_ROOT / mutant.path).read_bytes()
    parts = (
        mutant.address,
        mutant.after,
        hashlib.sha256(source).hexdigest(),
        digest(_ROOT, list(tests)),
        support,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _support() -> str:
    return digest(_ROOT, [name for name in tree_files(_ROOT) if name.startswith("tests_unit/support/")])


def _tests(
    lines: Lines | None, mutant: Mutant, users: dict[str, list[str]], files: list[str]
) -> dict[str, dict[str, float]]:
    return {file: {} for file in files} if lines is None else lines.of(mutant, users)


def _try(jobs: list[_Job], arguments: argparse.Namespace) -> dict[str, Result]:
    """Try mutants that have no result yet. Return all results by address."""
    kept = read_results(arguments.results)
    done = {job.mutant.address: kept[job.key] for job in jobs if job.key in kept}
    todo = [job for job in jobs if job.key not in kept]
    lock = threading.Lock()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)

    def one(worker: Worker, job: _Job) -> None:
        begun = time.monotonic()
        answer = worker.run(Request(job.mutant.path, job.source, job.tests, without=NOT_TRIED))
        if answer.outcome == "not-imported":
            raise RuntimeError(f"The tests of {job.mutant.address} do not import its module from the copy.")
        result = Result(
            job.key, job.mutant.address, answer.outcome, answer.test, round(time.monotonic() - begun, 2)
        )
        with lock:
            done[job.mutant.address] = result
            append_result(arguments.results, result)
            print(
                f"{len(done)}/{len(jobs)} {result.outcome:9} {result.seconds:6.1f} s  "
                f"{result.address}  {result.test}",
                file=sys.stderr,
                flush=True,
            )

    if todo:
        in_parallel(_ROOT, min(arguments.jobs, len(todo)), todo, one)
    return done


def main() -> int:
    """Return 0 if every area reaches its goal, 1 if one does not, 2 for a wrong option or list."""
    arguments = _parser().parse_args()
    # So that a run that is ended from outside removes its copies of the tree.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    areas = [area for area in AREAS if area.name in arguments.areas or not arguments.areas]
    everything = {area: _mutants(area) for area in AREAS}
    try:
        listed = equivalents(_EQUIVALENT, (mutant for some in everything.values() for mutant in some))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    chosen = {area: _chosen(arguments, area, everything[area]) for area in areas}
    if arguments.list:
        print(*(mutant.address for some in chosen.values() for mutant in some), sep="\n")
        return 0
    lines = None if arguments.tests else measured(_ROOT, _CACHE, arguments.jobs)
    if lines is not None and lines.broken:
        print("Fail without a mutant, so they are not used:", *lines.broken, sep="\n  ", file=sys.stderr)
    users = importers(_ROOT, [path for area in AREAS for path in area.paths(_ROOT)])
    support = _support()
    results: dict[str, Result] = {}
    jobs = []
    for mutant in (mutant for some in chosen.values() for mutant in some):
        tests = _tests(lines, mutant, users, arguments.tests or [])
        if mutant.address in listed:
            results[mutant.address] = Result("", mutant.address, "equivalent", "", 0.0)
        elif not tests:
            results[mutant.address] = Result("", mutant.address, "no-test", "", 0.0)
        else:
            source = mutant.applied((_ROOT / mutant.path).read_text(encoding="utf-8"))
            jobs.append(_Job(mutant, source, tests, _key(mutant, tests, support)))
    results.update(_try(jobs, arguments))
    return _report(chosen, results)


def _mutants(area: Area) -> list[Mutant]:
    return [
        mutant
        for path in area.paths(_ROOT)
        for mutant in mutants_of(path, (_ROOT / path).read_text(encoding="utf-8"))
    ]


def _report(chosen: dict[Area, list[Mutant]], results: dict[str, Result]) -> int:
    missed = False
    for area, mutants in chosen.items():
        rows: dict[str, list[Result]] = {}
        for mutant in mutants:
            folder = str(Path(mutant.path).parent)
            rows.setdefault(folder, []).append(results[mutant.address])
        rows = dict(sorted(rows.items()))
        rows[area.name] = [results[mutant.address] for mutant in mutants]
        for mutant in mutants:
            if results[mutant.address].outcome in ("survived", "no-test"):
                print(f"# {results[mutant.address].outcome}: {mutant.address}\n{stanza(mutant)}")
        print(table(rows), end="\n\n")
        counted = [one for one in rows[area.name] if one.outcome != "equivalent"]
        noticed = sum(one.outcome in ("killed", "timed-out") for one in counted)
        missed |= area.goal_percent is not None and 100 * noticed < area.goal_percent * len(counted)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
