"""Runs `snapproof bench ab`: prepares both sides, runs the gate or its self-check, writes ab.json."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import NotApplicable, UsageError
from harness.status import EXIT_NOTHING_RAN
from snapproof.bench.ab.compared import Compared, compared_hosts, compared_qemus, is_host, require_hosts
from snapproof.bench.ab.gate import GatePlan, GateResult, ratio_text, side_text
from snapproof.bench.ab.pairs import PairedComparison
from snapproof.bench.ab.self_check import self_check
from snapproof.bench.environment import measured_environment
from snapproof.bench.options import AbOptions
from snapproof.bench.sides import METRICS
from snapproof.runs.events import Progress
from snapproof.runs.outputs import write_json_file
from snapproof.runs.results_folder import AB_FILE, make_results_folder, now
from snapproof.runs.stack import provisioning_for

_SCHEMA = 1
_PLANTED = 0.2


def bench(options: AbOptions) -> int:
    """Run the benchmark and return the exit code that `snapproof bench ab --help` explains."""
    plan = GatePlan(1 + options.max_regression, options.pairs, options.max_pairs)
    checks = options.self_check
    if checks is not None and (checks < 1 or options.b is not None):
        raise UsageError("--self-check compares A with itself: give it a number above 0, and leave --b out.")
    if checks is not None and options.plant_slowdown is None:
        options = replace(options, plant_slowdown=_PLANTED)
    if options.plant_slowdown is not None and not METRICS[options.metric].can_be_planted:
        can = ", ".join(name for name, metric in METRICS.items() if metric.can_be_planted)
        raise UsageError(f"No slowdown can be planted for --metric {options.metric}; choose one of {can}.")
    if is_host(options.a) or is_host(options.b):
        require_hosts(options)
    elif options.qemu or options.host_qemu or options.host_accel:
        raise UsageError(
            "--qemu, --host-qemu and --host-accel are for hosts; name two QEMUs with --a and --b alone."
        )
    progress = Progress()
    try:
        with _folder(options.results) as folder:
            return _run(options, plan, folder, progress)
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


def _run(options: AbOptions, plan: GatePlan, folder: Path, progress: Progress) -> int:
    started, begun = now(), time.monotonic()
    document = {**_settings(options), "started": started, "host": measured_environment(folder)}
    with _compared(options, folder, progress) as compared:
        comparison = PairedComparison(
            compared.sides,
            options.metric,
            plan,
            options.seed,
            folder / "saves",
            provisioning_for(options.stack, progress.step),
            progress,
        )
        document |= {**compared.settings, "a": compared.a, "b": compared.b}
        progress.done()
        print("\n".join(_heading(options, compared)), flush=True)
        try:
            if options.self_check:
                found, code = self_check(comparison, options.self_check, options.plant_slowdown or _PLANTED)
            else:
                found, code = _once(comparison, options.plant_slowdown)
        except BaseException as error:
            # The pairs that were measured count, whatever ended the run.
            _write(options, {**document, **_unfinished(comparison, error)}, begun)
            raise
    _write(options, {**document, **found}, begun)
    return code


def _unfinished(comparison: PairedComparison, error: BaseException) -> dict[str, Any]:
    return {"ended_by": str(error) or type(error).__name__, "pairs_taken": comparison.taken}


def _compared(options: AbOptions, folder: Path, progress: Progress) -> AbstractContextManager[Compared]:
    if is_host(options.a):
        return nullcontext(compared_hosts(options, folder, progress))
    return compared_qemus(options, folder, progress)


def _settings(options: AbOptions) -> dict[str, Any]:
    """Return the part of ab.json that says what was asked for."""
    return {
        "schema": _SCHEMA,
        "kind": "ab-self-check" if options.self_check else "ab",
        "metric": options.metric,
        "unit": METRICS[options.metric].unit,
        "seed": options.seed,
        "planted": options.plant_slowdown,
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


def _heading(options: AbOptions, compared: Compared) -> Iterator[str]:
    metric = METRICS[options.metric]
    planted = f", slowed by {100 * options.plant_slowdown:g} %" if options.plant_slowdown else ""
    yield f"A       {compared.a_text}"
    yield f"B       {compared.b_text}{planted}"
    yield f"metric  {options.metric}: {metric.what}, in {metric.unit}"
    yield f"guest   {compared.guest_text}"


def _lines(result: GateResult, metric: str) -> Iterator[str]:
    unit = METRICS[metric].unit
    yield f"A       {side_text(result.a, unit)}"
    yield f"B       {side_text(result.b, unit)}"
    yield f"B/A     {ratio_text(result.found)}, {result.found.pairs} pairs"
    if result.warning():
        yield f"Note: {result.warning()}"
    yield f"{result.verdict.value.upper()}: {result.sentence()}"


def _write(options: AbOptions, document: dict[str, Any], begun: float) -> None:
    text = json.dumps({**document, "seconds": round(time.monotonic() - begun, 1)}, indent=1)
    if options.results:
        write_json_file(options.results / AB_FILE, text)
    if options.json:
        write_json_file(options.json, text)
