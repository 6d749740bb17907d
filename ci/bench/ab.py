"""`snapproof bench ab`: is one QEMU's snapshot more costly than another's? A gate for CI systems."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ci.bench.environment import measured_environment, require_room
from ci.bench.gate import GateResult, Plan, ratio_text, side_text
from ci.bench.pairs import Comparison, SlowedSide
from ci.bench.self_check import self_check
from ci.bench.stack_arguments import add_stack_arguments
from ci.bisect import add_bisect_argument
from ci.events import Progress
from ci.json_file import write_json_file
from ci.results import make_results_folder, now
from ci.stack import cache_of, prepare_stack
from harness.errors import NotApplicable, UsageError
from harness.migration import BACKGROUND_SNAPSHOT
from harness.status import EXIT_NOTHING_RAN
from tests_functional.scenarios.bench.two_sides import METRICS, WAY, two_sides
from tests_functional.scenarios.bench.warm_guest import sized
from tests_functional.scenarios.bench.writers import Writer
from tests_functional.scenarios.guest import Stack

RESULT_FILE = "ab.json"
_SCHEMA = 1
_RAM_MIB, _LEAST_FOR_WRITERS_MIB = 256, 16
_PAIRS, _MAX_PAIRS = 10, 40
_PLANTED = 0.2
# What is started from, of both sides, what a save writes, and some room.
_FILES = 4


def add_parser(benchmarks: Any) -> None:
    """Add the benchmark's arguments."""
    parser = benchmarks.add_parser(
        "ab",
        help="whether QEMU B's snapshots cost more than A's, with an exit code",
        description="Saves a small guest with two QEMUs by turns, always by a fresh process, and gives the\n"
        "ratio of B to A with an interval that holds it in 95 of 100 cases. Goes on until that decides.",
        epilog="Exit codes: 0 better or same, 1 worse, 2 undecided or error, 3 nothing was measured.\n"
        "Compares QEMUs on this host; hosts cannot be compared.\n"
        "Examples:\n"
        "  snapproof bench ab --a debian-13 --b build/qemu-system-x86_64 --max-regression 10%\n"
        "  snapproof bench ab --a build/qemu-system-x86_64 --plant-slowdown 20%\n"
        "  snapproof bench ab --a build/qemu-system-x86_64 --self-check 20\n"
        "docs/ab-gate.md says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    qemu = "an executable, or a name from 'snapproof images list'"
    parser.add_argument("--a", metavar="QEMU", help=f"the measure: {qemu} (default: as for 'run')")
    parser.add_argument("--b", metavar="QEMU", help="what is judged, likewise (default: A again)")
    parser.add_argument("--metric", choices=tuple(METRICS), default="total", help="(default: total)")
    parser.add_argument(
        "--max-regression",
        type=percent,
        default=percent("10%"),
        metavar="N%",
        help="by how much B may be worse (default: 10%%)",
    )
    parser.add_argument(
        "--pairs", type=int, default=_PAIRS, metavar="N", help="before the first look (default: %(default)s)"
    )
    parser.add_argument(
        "--max-pairs", type=int, default=_MAX_PAIRS, metavar="N", help="at most (default: %(default)s)"
    )
    parser.add_argument(
        "--plant-slowdown",
        type=percent,
        metavar="N%",
        help="make B worse by so much, to see the gate find it; with the metrics total, stun and downtime",
    )
    parser.add_argument(
        "--self-check",
        type=int,
        metavar="N",
        help="N gates of A against itself, N with a slowdown (20%%) planted, and how often each verdict came",
    )
    parser.add_argument(
        "--writer",
        choices=[writer.value for writer in Writer],
        default=Writer.ALL.value,
        help="what writes in the guest meanwhile (default: %(default)s)",
    )
    parser.add_argument(
        "--ram", type=int, default=_RAM_MIB, metavar="MIB", help="of the guest (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of the order of runs and of writes (default: 1)"
    )
    add_bisect_argument(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write figures and verdict there")
    parser.add_argument("--results", type=Path, metavar="DIR", help=f"new folder for {RESULT_FILE} and logs")
    add_stack_arguments(parser, qemu=False)
    parser.set_defaults(run=ab)


def percent(text: str) -> float:
    """A share above 0 from a text like ``10%``; raises ValueError for anything else."""
    if not text.endswith("%"):
        raise ValueError
    share = float(text[:-1]) / 100
    if not 0 < share <= 10:
        raise ValueError
    return share


def ab(arguments: argparse.Namespace) -> int:
    """Run the command; see `snapproof bench ab --help`."""
    plan = Plan(1 + arguments.max_regression, arguments.pairs, arguments.max_pairs)
    checks = arguments.self_check
    if checks is not None and (checks < 1 or arguments.b is not None):
        raise UsageError(
            "--self-check takes a number above 0, and compares A with itself, so it takes no --b."
        )
    if checks is not None and arguments.plant_slowdown is None:
        arguments.plant_slowdown = _PLANTED
    if arguments.plant_slowdown is not None and arguments.metric not in SlowedSide.METRICS:
        raise UsageError(
            f"No slowdown can be planted for --metric {arguments.metric}; "
            f"choose one of {', '.join(SlowedSide.METRICS)}."
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
        if (given / RESULT_FILE).exists():
            raise UsageError(f"'{given}' already holds a result; name another folder with --results.")
        yield make_results_folder(given)
        return
    with tempfile.TemporaryDirectory(prefix="snapproof-ab-") as name:
        yield Path(name)


def _run(arguments: argparse.Namespace, plan: Plan, folder: Path, progress: Progress) -> int:
    started, begun = now(), time.monotonic()
    stack_a, environment_a = _stack(arguments, arguments.a, folder, progress)
    stack_b, environment_b = stack_a, environment_a
    if arguments.b is not None:
        stack_b, environment_b = _stack(arguments, arguments.b, folder, progress)
    if stack_a.accel != stack_b.accel:
        raise UsageError(
            f"A runs under {stack_a.accel} and B under {stack_b.accel}; choose one for both with --accel."
        )
    require_room(folder, _FILES * arguments.ram)
    document = {
        **_settings(arguments),
        "started": started,
        "a": environment_a,
        "b": environment_b,
        "host": measured_environment(folder),
    }
    writer, seed = Writer(arguments.writer), arguments.seed
    with two_sides(stack_a, stack_b, writer, folder / "guests", progress.step, seed) as sides:
        comparison = Comparison(
            sides, arguments.metric, plan, seed, folder / "saves", cache_of(arguments), progress
        )
        progress.done()
        print("\n".join(_heading(arguments, environment_a, environment_b, sides.common)), flush=True)
        if arguments.self_check:
            found, code = self_check(comparison, arguments.self_check, arguments.plant_slowdown)
        else:
            found, code = _once(comparison, arguments.plant_slowdown)
        document |= {"common_guest": sides.common, **found}
    _write(arguments, {**document, "seconds": round(time.monotonic() - begun, 1)})
    return code


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as it is in ab.json."""
    return {
        "schema": _SCHEMA,
        "kind": "ab-self-check" if arguments.self_check else "ab",
        "metric": arguments.metric,
        "unit": METRICS[arguments.metric].unit,
        "way": WAY.value,
        "writer": arguments.writer,
        "ram_mib": arguments.ram,
        "seed": arguments.seed,
        "planted": arguments.plant_slowdown,
    }


def _once(comparison: Comparison, planted: float | None) -> tuple[dict[str, Any], int]:
    slow = None if planted is None else comparison.slowed(planted)
    result = comparison.gate(slow)
    comparison.progress.done()
    found: dict[str, Any] = {"result": result.to_json()}
    if slow is not None:
        print(slow.text())
        found["slept"] = slow.slept()
    print("\n".join(_lines(result, comparison.metric)))
    return found, result.exit_code


def _stack(
    arguments: argparse.Namespace, name: str | None, folder: Path, progress: Progress
) -> tuple[Stack, dict[str, Any]]:
    one = argparse.Namespace(**{**vars(arguments), "qemu": name})
    stack, environment = prepare_stack(one, folder, progress.step)
    if stack.capabilities and BACKGROUND_SNAPSHOT not in stack.capabilities:
        raise NotApplicable(f"QEMU {environment['qemu']} has no capability '{BACKGROUND_SNAPSHOT}'.")
    least = stack.image.own_mib + _LEAST_FOR_WRITERS_MIB
    if arguments.ram < least:
        raise UsageError(f"--ram {arguments.ram} is too little for this guest; give {least} or more.")
    return replace(sized(stack, arguments.ram), host_key_file=folder / "ssh_host_key"), environment


def _heading(
    arguments: argparse.Namespace, a: dict[str, Any], b: dict[str, Any], common: bool
) -> Iterator[str]:
    metric = METRICS[arguments.metric]
    planted = f", slowed by {100 * arguments.plant_slowdown:g} %" if arguments.plant_slowdown else ""
    yield f"A       QEMU {a['qemu']}, {a['qemu_executable']}"
    yield f"B       QEMU {b['qemu']}, {b['qemu_executable']}{planted}"
    yield f"metric  {arguments.metric}: {metric.what}, in {metric.unit}"
    yield (
        f"guest   {a['guest_image']}, {arguments.ram} MiB, {a['accelerator']}, writer '{arguments.writer}', "
        f"{WAY.value}"
        + ("" if common else "; each side has booted its own, since neither starts the other's")
    )


def _lines(result: GateResult, metric: str) -> Iterator[str]:
    unit = METRICS[metric].unit
    yield f"A       {side_text(result.a, unit)}"
    yield f"B       {side_text(result.b, unit)}"
    yield f"B/A     {ratio_text(result.found)}, {result.found.pairs} pairs"
    yield f"{result.verdict.value.upper()}: {result.sentence()}"


def _write(arguments: argparse.Namespace, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1)
    if arguments.results:
        write_json_file(arguments.results / RESULT_FILE, text)
    if arguments.json:
        write_json_file(arguments.json, text)
