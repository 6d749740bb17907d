"""Runs `snapproof bench downtime`: measures what saving costs a guest, by RAM size, way, writer and sink."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.deadline import Deadline
from harness.errors import NotApplicable, SetupBroken, UsageError
from harness.hosts.local import local_facts
from harness.status import EXIT_FAIL, EXIT_NOTHING_RAN, exit_code
from snapproof.bench.downtime_plan import RAM_MIB, PlannedSample, SamplePlan, make_plan
from snapproof.bench.downtime_summary import CaseSummary, StunGrowth, stun_growth, summarise
from snapproof.bench.environment import measured_environment, require_room
from snapproof.bench.options import DowntimeOptions
from snapproof.report.text_table import table_rows
from snapproof.runs.events import Progress
from snapproof.runs.outputs import write_json_file
from snapproof.runs.own_command import own_command
from snapproof.runs.results_folder import (
    BENCH_FILE,
    now,
    own_results_folder,
    remove_empty,
)
from snapproof.runs.stack import prepare_stack
from tests_functional.lib.guest import Stack
from tests_functional.lib.measure.cases import UNLIMITED, Way, Writer, throttled
from tests_functional.lib.measure.figures import Spread
from tests_functional.lib.measure.sample import Sample, measure
from tests_functional.lib.measure.warm_guest import WarmGuest, sized, warm_guest

_QUICK_RAM = (256, 512, 1024)
_QUICK_WAYS = (Way.BACKGROUND_EXEC, Way.STOP_AND_SAVE)
_GUEST_SECONDS = 1800.0
_RAM_LIMIT_MIB = 1 << 20
_HEADS = (
    "writer",
    "sink",
    "RAM MiB",
    "way",
    "n",
    "stun ms, min..max",
    "second ms",
    "total ms",
    "gap ms",
    "stall p99 / max us",
)

T = TypeVar("T")


@dataclass
class _Found:
    """The samples that have been taken, and what was left out."""

    environment: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def bench(options: DowntimeOptions) -> int:
    """Run the benchmark and return the exit code that `snapproof bench downtime --help` explains."""
    seed = options.seed if options.seed is not None else random.randrange(1 << 31)
    plan = planned(options, seed, local_facts().memory_mib)
    if options.max_growth is not None:
        _require_growth(options.max_growth, plan)
    for line in plan_lines(plan, whole=options.plan):
        print(line, flush=True)
    if options.plan:
        return 0
    if not plan.cases:
        return EXIT_NOTHING_RAN
    started, begun = now(), time.monotonic()
    folder = own_results_folder(options.results, "bench-")
    require_room(folder, plan.disk_mib)
    progress = Progress()
    found = _Found(measured_environment(folder), left_out=dict(plan.left_out))
    try:
        stack, environment = prepare_stack(options.stack, folder, progress.step)
        found.environment = {**environment, **found.environment, "seed": seed, "vcpus": stack.vcpus}
        _take(plan, stack, folder, found, progress)
    finally:
        progress.done()
        with contextlib.suppress(OSError):
            # It is not empty if a sample failed, whose logs are kept.
            (folder / "samples").rmdir()
        if found.samples:
            # The samples that were taken count, whatever ended the run.
            content = _content(found, started, time.monotonic() - begun, plan)
            for path in filter(None, (folder / BENCH_FILE, options.json)):
                write_json_file(path, json.dumps(content, indent=1))
        else:
            remove_empty(folder)
    return _closing(found, plan, folder, options.max_growth)


def _require_growth(limit: float, plan: SamplePlan) -> None:
    """Check, before an hour of measuring, that the samples of a plan can decide --max-growth.

    Raises:
        UsageError: they cannot.
    """
    if not 0 < limit < math.inf:
        raise UsageError(f"--max-growth {limit:g} is not a factor above 0.")
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


def planned(options: DowntimeOptions, seed: int, memory_mib: int) -> SamplePlan:
    """Plan the samples that the options ask for.

    Raises:
        UsageError: an option is out of range, or names a way, writer or sink that does not exist.
    """
    if options.repeats < 1:
        raise UsageError(f"--repeats {options.repeats} is too few; give 1 or more.")
    if not 0.1 <= options.throttle <= 1e6:
        raise UsageError(f"--throttle {options.throttle:g} is not from 0.1 to 1000000 MiB per second.")
    quick = options.quick
    sinks = {one.name: one for one in (UNLIMITED, throttled(options.throttle))}
    return make_plan(
        _sizes(options.ram) if options.ram is not None else _QUICK_RAM if quick else RAM_MIB,
        _chosen("--ways", options.ways, {one.value: one for one in Way}, _QUICK_WAYS if quick else None),
        _chosen(
            "--writers",
            options.writers,
            {one.value: one for one in Writer},
            (Writer.ALL,) if quick else None,
        ),
        _chosen("--sinks", options.sinks, sinks, (UNLIMITED,) if quick else None),
        repeats=options.repeats,
        seed=seed,
        memory_mib=memory_mib,
    )


def _sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or not 0 < sizes[0] <= sizes[-1] <= _RAM_LIMIT_MIB:
        raise UsageError(f"--ram takes guest sizes in MiB with commas between them, not '{text}'.")
    return sizes


def _chosen(option: str, text: str | None, known: dict[str, T], usual: Sequence[T] | None) -> Sequence[T]:
    if text is None:
        return usual or list(known.values())
    words = list(dict.fromkeys(text.split(",")))
    for word in words:
        if word not in known:
            raise UsageError(f"{option} has '{word}', which is none of {', '.join(known)}.")
    return [known[word] for word in words]


def _take(plan: SamplePlan, stack: Stack, folder: Path, found: _Found, progress: Progress) -> None:
    """Make all guests ready, then take all samples of a plan."""
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
        planned_samples = plan.samples()
        for number, one in enumerate(planned_samples, 1):
            if one.case.way.value in found.left_out:
                continue
            progress.step(f"Sample {number} of {len(planned_samples)}: {one.case.name}.")
            _sample(one, warm[one.case.ram_mib, one.case.writer], folder, found, progress)


def _sample(wanted: PlannedSample, warm: WarmGuest, folder: Path, found: _Found, progress: Progress) -> None:
    """Take one sample; leave its way out from now on if this QEMU or host cannot save so."""
    case, repeat = wanted.case, wanted.repeat
    place = folder / "samples" / f"{case.name}-{repeat}"
    try:
        sample = measure(
            warm, case.way, place, sink=case.sink, repeat=repeat, judge=repeat == 1, again=case.again
        )
    except NotApplicable as refusal:
        found.left_out[case.way.value] = refusal.sentence
        progress.line(f"{case.way.value} is left out: {refusal.sentence}")
        return
    found.samples.append(sample)
    if sample.error:
        progress.line(f"{case.name}, repeat {repeat}: {sample.error}")


def _content(found: _Found, started: str, seconds: float, plan: SamplePlan) -> dict[str, Any]:
    """Return the content of bench.json."""
    return {
        "schema": 1,
        "bench": "downtime",
        "started": started,
        "seconds": round(seconds, 1),
        "command": own_command(),
        "environment": found.environment,
        "repeats": plan.repeats,
        "left_out": [{"what": what, "why": why} for what, why in found.left_out.items()],
        "samples": [sample.to_json() for sample in found.samples],
        "summary": [case.to_json() for case in summarise(found.samples)],
    }


def _closing(found: _Found, plan: SamplePlan, folder: Path, max_growth: float | None) -> int:
    """Print the result and return the exit code."""
    cases = summarise(found.samples)
    growth = stun_growth(cases, plan.writer.value, plan.sink.name)
    print("\n".join(table_lines(cases, growth, found.left_out)))
    failed = [sample for sample in found.samples if not sample.measured]
    print(f"{len(found.samples) - len(failed)} samples, {len(failed)} failed")
    if found.samples:
        print(f"Results: {shlex.quote(str(folder / BENCH_FILE))}")
    code = exit_code(sample.status for sample in found.samples)
    if len(failed) == len(found.samples):
        print("Nothing was measured.")
        return code if code == EXIT_FAIL else EXIT_NOTHING_RAN
    if max_growth is not None and not code:
        if growth is None:
            raise SetupBroken(
                "--max-growth cannot be judged: background-exec was not measured at two guest sizes."
            )
        if growth.background > max_growth:
            print(f"FAIL: the stun grows by {growth.background:.2f}, more than {max_growth:g}.")
            return EXIT_FAIL
    return code


def plan_lines(plan: SamplePlan, whole: bool) -> list[str]:
    """Return a plan as lines for a person.

    Args:
        plan: the plan.
        whole: whether to list each case.
    """
    lines = []
    if whole:
        lines += [f"{case.name:44} {case.seconds:5.0f} s each" for case in plan.cases]
    lines += [f"Left out: {what}. {why}" for what, why in plan.left_out]
    lines.append(
        f"{len(plan.cases)} cases x {plan.repeats} = {len(plan.cases) * plan.repeats} samples of "
        f"{len(plan.guests())} guests, about {plan.seconds / 60:.0f} minutes on two idle cores without KVM, "
        f"at most {plan.disk_mib} MiB of disk; seed {plan.seed}"
    )
    return lines


def table_lines(
    cases: Sequence[CaseSummary], growth: StunGrowth | None, left_out: Mapping[str, str]
) -> list[str]:
    """Return the table of cases, and below it notes and how the stun grows."""
    lines = table_rows([_HEADS, *(_cells(case) for case in cases)])
    if any(case.given_up for case in cases):
        lines.append(
            "Given up: the pre-copy did not catch up with the guest's writes, so the guest was stopped."
        )
    lines += [f"Left out: {what}. {why}" for what, why in left_out.items()]
    return [*lines, *_growth_lines(growth)]


def _cells(case: CaseSummary) -> tuple[str, ...]:
    figures = case.figures
    return (
        case.writer,
        case.sink,
        str(case.ram_mib),
        case.way,
        f"{case.n}"
        + (f" (+{case.failed} failed)" if case.failed else "")
        + (f" ({case.given_up} given up)" if case.given_up else ""),
        f"{case.stun.median:.1f}, {case.stun.min:.1f}..{case.stun.max:.1f}" if case.stun else "-",
        f"{again.median:.1f}" if (again := figures["again_stun_ms"]) else "-",
        _median(figures["total_ms"]),
        _median(figures["guest_gap_ms"]),
        f"{_median(figures['stall_p99_us'])} / {_median(figures['stall_max_us'])}",
    )


def _median(figure: Spread | None) -> str:
    return f"{figure.median:,.0f}" if figure else "-"


def _growth_lines(growth: StunGrowth | None) -> list[str]:
    if growth is None:
        return []
    sizes = f"From {growth.smallest_mib} to {growth.largest_mib} MiB"
    lines = [f"{sizes} the stun of a background snapshot grows by {growth.background:.2f}."]
    if growth.again is not None and growth.again_ms is not None:
        lines.append(
            f"{sizes} that of a second one of the same process grows by {growth.again:.2f}, to "
            f"{growth.again_ms:.1f} ms: the first has split the guest's huge pages."
        )
    if growth.stopped is not None:
        lines.append(f"{sizes} that of stop-and-save grows by {growth.stopped:.2f}.")
    if growth.gain is not None:
        lines.append(
            f"At {growth.largest_mib} MiB stop-and-save stuns the guest {growth.gain:.1f} times as long."
        )
    return lines
