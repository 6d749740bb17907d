"""Runs `snapproof bench ab`: prepares both sides, runs the gate or its self-check, writes ab.json."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from harness.errors import NotApplicable, UsageError
from harness.status import EXIT_NOTHING_RAN
from snapproof.bench.ab.compared import Compared, compared_hosts, compared_qemus, is_host, require_hosts
from snapproof.bench.ab.gate import GatePlan, GateResult, ratio_text, side_text
from snapproof.bench.ab.pairs import PairedComparison
from snapproof.bench.ab.self_check import self_check
from snapproof.bench.environment import measured_environment
from snapproof.bench.sides import METRICS
from snapproof.runs.events import Progress
from snapproof.runs.json_file import write_json_file
from snapproof.runs.results import AB_FILE, make_results_folder, now
from snapproof.runs.stack import cache_of

_SCHEMA = 1
_PLANTED = 0.2


def bench(arguments: argparse.Namespace) -> int:
    """Run the benchmark and return the exit code that `snapproof bench ab --help` explains."""
    plan = GatePlan(1 + arguments.max_regression, arguments.pairs, arguments.max_pairs)
    checks = arguments.self_check
    if checks is not None and (checks < 1 or arguments.b is not None):
        raise UsageError("--self-check compares A with itself: give it a number above 0, and leave --b out.")
    if checks is not None and arguments.plant_slowdown is None:
        arguments.plant_slowdown = _PLANTED
    if arguments.plant_slowdown is not None and not METRICS[arguments.metric].can_be_planted:
        can = ", ".join(name for name, metric in METRICS.items() if metric.can_be_planted)
        raise UsageError(f"No slowdown can be planted for --metric {arguments.metric}; choose one of {can}.")
    if is_host(arguments.a) or is_host(arguments.b):
        require_hosts(arguments)
    elif arguments.qemu or arguments.host_qemu or arguments.host_accel:
        raise UsageError(
            "--qemu, --host-qemu and --host-accel are for hosts; name two QEMUs with --a and --b alone."
        )
    progress = Progress()
    try:
        with _folder(arguments.results) as folder:
            return _run(arguments, plan, folder, progress)
    except NotApplicable as error:
        print(f"snapproof: Nothing was measured: {error.sentence}", file=sys.stderr)
        return EXIT_NOTHING_RAN
    finally:
        progress.done()


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield make_results_folder(given)
        return
    with tempfile.TemporaryDirectory(prefix="snapproof-ab-") as name:
        yield Path(name)


def _run(arguments: argparse.Namespace, plan: GatePlan, folder: Path, progress: Progress) -> int:
    started, begun = now(), time.monotonic()
    document = {**_settings(arguments), "started": started, "host": measured_environment(folder)}
    with _compared(arguments, folder, progress) as compared:
        comparison = PairedComparison(
            compared.sides,
            arguments.metric,
            plan,
            arguments.seed,
            folder / "saves",
            cache_of(arguments),
            progress,
        )
        document |= {**compared.settings, "a": compared.a, "b": compared.b}
        progress.done()
        print("\n".join(_heading(arguments, compared)), flush=True)
        try:
            if arguments.self_check:
                found, code = self_check(comparison, arguments.self_check, arguments.plant_slowdown)
            else:
                found, code = _once(comparison, arguments.plant_slowdown)
        except BaseException as error:
            # The pairs that were measured count, whatever ended the run.
            _write(arguments, {**document, **_unfinished(comparison, error)}, begun)
            raise
    _write(arguments, {**document, **found}, begun)
    return code


def _unfinished(comparison: PairedComparison, error: BaseException) -> dict[str, Any]:
    return {"ended_by": str(error) or type(error).__name__, "pairs_taken": comparison.taken}


def _compared(
    arguments: argparse.Namespace, folder: Path, progress: Progress
) -> AbstractContextManager[Compared]:
    if is_host(arguments.a):
        return nullcontext(compared_hosts(arguments, folder, progress))
    return compared_qemus(arguments, folder, progress)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the part of ab.json that says what was asked for."""
    return {
        "schema": _SCHEMA,
        "kind": "ab-self-check" if arguments.self_check else "ab",
        "metric": arguments.metric,
        "unit": METRICS[arguments.metric].unit,
        "seed": arguments.seed,
        "planted": arguments.plant_slowdown,
    }


def _once(comparison: PairedComparison, planted: float | None) -> tuple[dict[str, Any], int]:
    """Run one gate, print its verdict, and return its part of ab.json and its exit code."""
    slow = None if planted is None else comparison.slowed(planted)
    result = comparison.gate(slow)
    comparison.progress.done()
    found: dict[str, Any] = {"result": result.to_json()}
    if slow is not None:
        print(slow.text())
        found["slept"] = slow.slept()
    print("\n".join(_lines(result, comparison.metric)))
    return found, result.exit_code


def _heading(arguments: argparse.Namespace, compared: Compared) -> Iterator[str]:
    metric = METRICS[arguments.metric]
    planted = f", slowed by {100 * arguments.plant_slowdown:g} %" if arguments.plant_slowdown else ""
    yield f"A       {compared.a_text}"
    yield f"B       {compared.b_text}{planted}"
    yield f"metric  {arguments.metric}: {metric.what}, in {metric.unit}"
    yield f"guest   {compared.guest_text}"


def _lines(result: GateResult, metric: str) -> Iterator[str]:
    unit = METRICS[metric].unit
    yield f"A       {side_text(result.a, unit)}"
    yield f"B       {side_text(result.b, unit)}"
    yield f"B/A     {ratio_text(result.found)}, {result.found.pairs} pairs"
    if result.warning():
        yield f"Note: {result.warning()}"
    yield f"{result.verdict.value.upper()}: {result.sentence()}"


def _write(arguments: argparse.Namespace, document: dict[str, Any], begun: float) -> None:
    text = json.dumps({**document, "seconds": round(time.monotonic() - begun, 1)}, indent=1)
    if arguments.results:
        write_json_file(arguments.results / AB_FILE, text)
    if arguments.json:
        write_json_file(arguments.json, text)
