"""`snapproof bench downtime`: what saving a guest costs it, by RAM size, way of saving, writers and sink."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from ci.bench.downtime_text import plan_lines, table_lines
from ci.bench.environment import measured_environment, require_room
from ci.events import Progress
from ci.json_file import write_json_file
from ci.results import BENCH_FILE, make_results_folder, now, remove_empty
from ci.stack import prepare_stack
from ci.stack_arguments import add_stack_arguments, seed_number
from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken, UsageError
from harness.host import LocalHost
from harness.status import EXIT_FAIL, EXIT_NOTHING_RAN, exit_code
from tests_functional.scenarios.bench.measure import Sample, measure
from tests_functional.scenarios.bench.plan import RAM_MIB, Plan, Run, make_plan
from tests_functional.scenarios.bench.summary import promise, summarise
from tests_functional.scenarios.bench.warm_guest import WarmGuest, sized, warm_guest
from tests_functional.scenarios.bench.ways import UNLIMITED, Way, throttled
from tests_functional.scenarios.bench.writers import Writer
from tests_functional.scenarios.guest import Stack

_QUICK_RAM = (256, 512, 1024)
_QUICK_WAYS = (Way.BACKGROUND_EXEC, Way.STOP_AND_SAVE)
_GUEST_SECONDS = 1800.0
_RAM_LIMIT_MIB = 1 << 20

T = TypeVar("T")


@dataclass
class _Found:
    """What has been measured so far."""

    environment: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def add_parser(benchmarks: Any) -> None:
    """Add the benchmark's arguments."""
    parser = benchmarks.add_parser(
        "downtime",
        help="what saving a guest costs it, by RAM size and way of saving",
        description="Saves guests of several sizes in several ways while they write, and measures how long "
        "they stand still and how much slower they are meanwhile: all sizes by all ways with one writer and "
        "sink, all writers and sinks at the size nearest to 512 MiB. docs/bench.md explains the figures.",
        epilog="Examples: snapproof bench downtime --quick; snapproof bench downtime --plan; snapproof bench "
        "downtime --ram 512 --ways background-exec,savevm --writers all,idle. "
        "Exit codes: 0 measured, 1 a save failed or was wrong, or --max-growth was exceeded, 2 error, "
        "3 nothing was measured.",
    )
    parser.add_argument(
        "--ram",
        metavar="MIB,...",
        help=f"guest sizes (default: {','.join(map(str, RAM_MIB))}, those that fit)",
    )
    parser.add_argument("--ways", metavar="WAY,...", help=f"of {', '.join(way.value for way in Way)}")
    # One of them is called "10%", and argparse formats help texts.
    writers = ", ".join(one.value for one in Writer).replace("%", "%%")
    parser.add_argument("--writers", metavar="WRITER,...", help=f"of {writers}")
    parser.add_argument("--sinks", metavar="SINK,...", help="of unlimited, throttled")
    parser.add_argument(
        "--throttle",
        type=float,
        default=100.0,
        metavar="MIB",
        help="MiB/s of the throttled sink (default: 100)",
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="samples of each (default: 5)")
    parser.add_argument("--quick", action="store_true", help="three sizes, two ways, one writer and sink")
    parser.add_argument("--plan", action="store_true", help="print what would be measured, and stop")
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="new folder (default: results/bench-TIME)"
    )
    parser.add_argument("--seed", type=seed_number, metavar="N", help="of the orders of samples and writes")
    parser.add_argument("--json", type=Path, metavar="OUT", help=f"a copy of the results' {BENCH_FILE}")
    parser.add_argument(
        "--max-growth",
        type=float,
        metavar="FACTOR",
        help="fail where the stun by background-exec grows by more from the smallest to the largest guest",
    )
    add_stack_arguments(parser)
    parser.set_defaults(run=bench)


def bench(arguments: argparse.Namespace) -> int:
    """Run the command; see `snapproof bench downtime --help`."""
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 31)
    plan = planned(arguments, seed, LocalHost().facts().memory_mib)
    if arguments.max_growth is not None:
        _require_growth(arguments.max_growth, plan)
    for line in plan_lines(plan, whole=arguments.plan):
        print(line, flush=True)
    if arguments.plan:
        return 0
    if not plan.cases:
        return EXIT_NOTHING_RAN
    started, begun = now(), time.monotonic()
    folder = make_results_folder(
        arguments.results or Path("results") / f"bench-{datetime.now():%Y%m%d-%H%M%S}"
    )
    require_room(folder, plan.disk_mib)
    progress = Progress()
    found = _Found(measured_environment(folder), left_out=dict(plan.left_out))
    try:
        stack, environment = prepare_stack(arguments, folder, progress.step)
        found.environment = {**environment, **found.environment, "seed": seed, "vcpus": stack.vcpus}
        _take(plan, stack, folder, found, progress)
    finally:
        progress.done()
        with contextlib.suppress(OSError):
            # Logs of samples that failed stay.
            (folder / "samples").rmdir()
        if found.samples:
            # What was measured before something ended the run was measured.
            content = _content(found, started, time.monotonic() - begun, plan)
            for path in filter(None, (folder / BENCH_FILE, arguments.json)):
                write_json_file(path, json.dumps(content, indent=1))
        else:
            remove_empty(folder)
    return _closing(found, plan, folder, arguments.max_growth)


def _require_growth(limit: float, plan: Plan) -> None:
    """Check before an hour of measuring that --max-growth can be judged.

    Raises:
        UsageError: it cannot.
    """
    if not 0 < limit < math.inf:
        raise UsageError("--max-growth wants a factor above 0.")
    sizes = {
        case.ram_mib
        for case in plan.cases
        if (case.way, case.writer, case.sink) == (Way.BACKGROUND_EXEC, plan.writer, plan.sink)
    }
    if len(sizes) < 2:
        raise UsageError(
            "--max-growth compares background-exec at the smallest and the largest guest, and "
            f"{'only one size' if sizes else 'none'} would be measured; see --plan."
        )


def planned(arguments: argparse.Namespace, seed: int, memory_mib: int) -> Plan:
    """What the arguments ask for.

    Raises:
        UsageError: they name something that there is not.
    """
    if arguments.repeats < 1:
        raise UsageError("--repeats wants at least one sample of each.")
    if not 0.1 <= arguments.throttle <= 1e6:
        raise UsageError("--throttle wants a number of MiB per second from 0.1 to 1000000.")
    quick = arguments.quick
    sinks = {one.name: one for one in (UNLIMITED, throttled(arguments.throttle))}
    return make_plan(
        _sizes(arguments.ram) if arguments.ram is not None else _QUICK_RAM if quick else RAM_MIB,
        _chosen("--ways", arguments.ways, {one.value: one for one in Way}, _QUICK_WAYS if quick else None),
        _chosen(
            "--writers",
            arguments.writers,
            {one.value: one for one in Writer},
            (Writer.ALL,) if quick else None,
        ),
        _chosen("--sinks", arguments.sinks, sinks, (UNLIMITED,) if quick else None),
        repeats=arguments.repeats,
        seed=seed,
        memory_mib=memory_mib,
    )


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or not 0 < sizes[0] <= sizes[-1] <= _RAM_LIMIT_MIB:
        raise UsageError(f"--ram wants guest sizes in MiB with commas between them, not '{text}'.")
    return sizes


def _chosen(option: str, text: str | None, known: dict[str, T], usual: Sequence[T] | None) -> Sequence[T]:
    if text is None:
        return usual or list(known.values())
    words = list(dict.fromkeys(text.split(",")))
    for word in words:
        if word not in known:
            raise UsageError(f"{option} has '{word}', which is none of {', '.join(known)}.")
    return [known[word] for word in words]


def _take(plan: Plan, stack: Stack, folder: Path, found: _Found, progress: Progress) -> None:
    """Make all guests ready, then take all samples."""
    for ram, _ in plan.guests():
        if ram < 2 * stack.image.own_mib:
            raise UsageError(f"A guest of {ram} MiB is too small: it needs {stack.image.own_mib} MiB itself.")
    with contextlib.ExitStack() as guests:
        warm: dict[tuple[int, Writer], WarmGuest] = {}
        for ram, writer in plan.guests():
            progress.step(f"Making a guest of {ram} MiB ready, writer '{writer.value}'.")
            place = folder / "guests" / f"{ram}-{writer.name.lower()}"
            made = warm_guest(
                sized(stack, ram), writer, place, Deadline(_GUEST_SECONDS), found.environment["seed"]
            )
            warm[ram, writer] = guests.enter_context(made)
        found.environment["coverage"] = {
            str(ram): round(one.stack.coverage, 3) for (ram, _), one in warm.items()
        }
        runs = plan.runs()
        for number, run in enumerate(runs, 1):
            if run.case.way.value in found.left_out:
                continue
            progress.step(f"Sample {number} of {len(runs)}: {run.case.name}.")
            _sample(run, warm[run.case.ram_mib, run.case.writer], folder, found, progress)


def _sample(run: Run, warm: WarmGuest, folder: Path, found: _Found, progress: Progress) -> None:
    case = run.case
    place = folder / "samples" / f"{case.name}-{run.repeat}"
    try:
        sample = measure(
            warm, case.way, place, sink=case.sink, repeat=run.repeat, judge=run.repeat == 1, again=case.again
        )
    except NotApplicable as refusal:
        found.left_out[case.way.value] = refusal.sentence
        progress.line(f"{case.way.value} is left out: {refusal.sentence}")
        return
    found.samples.append(sample)
    if sample.error:
        progress.line(f"{case.name}, repeat {run.repeat}: {sample.error}")


def _content(found: _Found, started: str, seconds: float, plan: Plan) -> dict[str, Any]:
    return {
        "schema": 1,
        "bench": "downtime",
        "started": started,
        "seconds": round(seconds, 1),
        "command": [str(Path(sys.argv[0]).absolute()), *sys.argv[1:]],
        "environment": found.environment,
        "repeats": plan.repeats,
        "left_out": [{"what": what, "why": why} for what, why in found.left_out.items()],
        "samples": [sample.to_json() for sample in found.samples],
        "summary": [row.to_json() for row in summarise(found.samples)],
    }


def _closing(found: _Found, plan: Plan, folder: Path, max_growth: float | None) -> int:
    rows = summarise(found.samples)
    kept = promise(rows, plan.writer.value, plan.sink.name)
    print("\n".join(table_lines(rows, kept, found.left_out)))
    failed = [sample for sample in found.samples if not sample.measured]
    print(f"{len(found.samples) - len(failed)} samples, {len(failed)} failed")
    if found.samples:
        print(f"Results: {shlex.quote(str(folder / BENCH_FILE))}")
    code = exit_code(sample.status for sample in found.samples)
    if len(failed) == len(found.samples):
        print("Nothing was measured.")
        return code if code == EXIT_FAIL else EXIT_NOTHING_RAN
    if max_growth is not None and not code:
        if kept is None:
            raise SetupBroken("--max-growth: background-exec was not measured at two sizes.")
        if kept.background > max_growth:
            print(f"FAIL: the stun grows by {kept.background:.2f}, more than {max_growth:g}.")
            return EXIT_FAIL
    return code
