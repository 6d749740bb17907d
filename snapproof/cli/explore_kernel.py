"""Runs `snapproof explore --kernel`: lists of memory operations on a host, and reports what failed."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from harness.deadline import Deadline
from harness.errors import UsageError
from harness.hosts.spec import LOCAL, parse_host
from harness.plural import counted
from harness.status import EXIT_ALL_SKIPPED, EXIT_ERROR, EXIT_FAIL, EXIT_NOTHING_RAN, EXIT_PASS
from snapproof.cli.options import host_options
from snapproof.explore.kernel_findings import write_finding, write_summary
from snapproof.explore.results import ENDED, INTERRUPTED, write_campaign
from snapproof.runs.events import Progress
from snapproof.runs.feature_runner import events_here, events_there
from snapproof.runs.host_plan import Sources, expanded_hosts, lent_for_lists, opened_host
from snapproof.runs.interruption import asked_to_stop
from snapproof.runs.own_command import own_command
from snapproof.runs.results_folder import now, own_results_folder
from tests_functional.hosts.feature_tests import carry_tests
from tests_functional.kernel.explore.faults import PLANTED
from tests_functional.kernel.explore.steps import MemoryList

_RUNNER = "tests_functional.kernel.explore"
_MORE_SECONDS = 1800.0
_FAULT_SECONDS = 60.0
_PUT_SECONDS = 60.0

Event = dict[str, Any]


def explore_kernel(arguments: argparse.Namespace) -> int:
    """Explore a host's kernel, print what was found, and return the exit code that `--help` explains."""
    _require_fit(arguments)
    progress = Progress()
    with TemporaryDirectory(prefix="snapproof-explore-") as place:
        sources = Sources(host_options(arguments), Path(place), progress.step)
        events = _events(arguments, sources)
        try:
            if arguments.self_check:
                return _self_check(events, progress)
            if arguments.replay:
                return _say_replayed(_last(events, progress))
            return _explored(arguments, events, progress)
        finally:
            progress.done()


def _events(arguments: argparse.Namespace, sources: Sources) -> Iterator[Event]:
    """Yield the events of the runner of lists on the host."""
    words, files = _words(arguments)
    (wanted, *others) = expanded_hosts([parse_host(arguments.host)], sources.provisioning)
    if others:
        raise UsageError(f"'{arguments.host}' is {1 + len(others)} kernels, and lists run on one.")
    prepared = [f"--{name}" for name in ("prepare", "ksm") if getattr(arguments, name)]
    if wanted.text == LOCAL:
        for name, path in files.items():
            words += [f"--{name}", str(path.resolve())]
        yield from events_here(_RUNNER, [*words, *prepared])
        return
    with opened_host(wanted, sources) as host:
        carry_tests(host)
        for name, path in files.items():
            host.put({f"{name}.json": path}, Deadline(_PUT_SECONDS))
            words += [f"--{name}", f"{name}.json"]
        more = lent_for_lists() if wanted.vm else prepared
        seconds = (arguments.seconds or arguments.default_seconds) + _MORE_SECONDS
        yield from events_there(host, _RUNNER, [*words, *more], seconds)


def _words(arguments: argparse.Namespace) -> tuple[list[str], dict[str, Path]]:
    """Return the arguments of the runner, and the files that it reads."""
    words = ["--seed", str(arguments.seed)]
    seconds = arguments.seconds
    if seconds is None and not arguments.runs:
        seconds = _FAULT_SECONDS if arguments.self_check else arguments.default_seconds
    if seconds is not None:
        words += ["--seconds", str(seconds)]
    if arguments.runs:
        words += ["--runs", str(arguments.runs)]
    if arguments.self_check:
        words.append("--self-check")
    for fault in arguments.fault or ():
        words += ["--fault", fault]
    files = {name: getattr(arguments, name) for name in ("replay", "corpus") if getattr(arguments, name)}
    return words, files


def _require_fit(arguments: argparse.Namespace) -> None:
    """Check that faults are known, that settings may be changed, and that files have lists for the kernel.

    Raises:
        UsageError: it does not.
    """
    unknown = sorted({*(arguments.fault or ())} - {*PLANTED})
    if unknown:
        raise UsageError(f"There is no fault '{unknown[0]}'; there are {', '.join(PLANTED)}.")
    if arguments.host == LOCAL and (arguments.prepare or arguments.ksm) and os.geteuid() != 0:
        raise UsageError("--prepare and --ksm change settings of this host, for which one must be root.")
    for path, key in ((arguments.replay, None), (arguments.corpus, "lists")):
        if path is not None:
            _require_lists(path, key)


def _require_lists(path: Path, key: str | None) -> None:
    """Check that a file has a list of steps of memory or, below a key, several.

    Raises:
        UsageError: it cannot be read, or has something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for entry in [content] if key is None else content[key]:
            MemoryList.from_json(entry)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"'{path}' has no list of steps of memory: {error}.") from error


def _last(events: Iterator[Event], progress: Progress) -> Event:
    last: Event = {}
    for event in events:
        last = event
    progress.done()
    return last


def _explored(arguments: argparse.Namespace, events: Iterator[Event], progress: Progress) -> int:
    folder = own_results_folder(arguments.results, "explore-")
    started = now()
    host: Event = {}
    found: list[Event] = []
    end: Event = {}
    try:
        for event in events:
            if event["event"] == "host":
                host = event
            elif event["event"] == "progress":
                progress.step(event["line"])
            elif event["event"] == "finding":
                place = f"{len(found) + 1:02d}-{event['record']['code']}"
                found.append({**event, "folder": place})
                write_finding(event, folder / "findings" / place, host)
            else:
                end = event
                write_summary(folder, started, host, found, end)
    finally:
        progress.done()
        state = ENDED if end.get("event") == "end" and not asked_to_stop() else INTERRUPTED
        if end.get("lists"):
            write_campaign(folder, write_summary(folder, started, host, found, end, state), own_command())
    return _summarise(folder, host, found, end)


def _summarise(folder: Path, host: Event, found: Sequence[Event], end: Event) -> int:
    if end.get("skipped"):
        print(f"SKIP: {end['skipped']}")
        return EXIT_ALL_SKIPPED
    for number, event in enumerate(found, 1):
        steps = MemoryList.from_json(event["steps"])
        known = f"known issue {event['known']}: " if event["known"] else ""
        print(f"{number}. {known}{event['record']['sentence']}")
        print(
            f"   after {counted(event['lists'], 'list')} and {event['seconds']} s (seed {event['seed']}), "
            f"again in {event['failed']} of {event['tried']} runs, {counted(len(steps.steps), 'step')}: "
            f"{steps.words}"
        )
    print(f"{end['line']} in {end['seconds']:.0f} s on Linux {host['kernel']}; seed {end['seed']}.")
    for reason, times in end["errors"].items():
        print(f"Without a verdict, {times}x: {reason}")
    print(f"Results: {folder}")
    if not end["lists"]:
        print("No list was run.")
        return EXIT_NOTHING_RAN
    if end["findings"]:
        print(f"FAIL: found {counted(end['findings'], 'cause')} outside of the baseline.")
        return EXIT_FAIL
    if sum(end["errors"].values()) == end["lists"]:
        print("ERROR: no list has a verdict.")
        return EXIT_ERROR
    print("PASS: nothing was found that is not in the baseline.")
    return EXIT_PASS


def _self_check(events: Iterator[Event], progress: Progress) -> int:
    print(f"{'fault':24} {'result':7} {'seconds':>7} {'lists':>6}  found as")
    missed, times = [], []
    for event in events:
        if event["event"] != "fault":
            continue
        progress.done()
        result = "found" if event["found"] else "missed"
        print(
            f"{event['fault']:24} {result:7} {event['seconds']:7.1f} {event['lists']:6}  "
            f"{event['code'] or '-'}",
            flush=True,
        )
        if event["found"]:
            times.append(event["seconds"])
        else:
            missed.append(event["fault"])
    if missed or not times:
        print(f"FAIL: not found: {', '.join(missed) or 'anything'}.")
        return EXIT_FAIL
    print(
        f"PASS: found {counted(len(times), 'planted fault')}, all of them, median {median(times):.1f} s, "
        f"worst {max(times):.1f} s."
    )
    return EXIT_PASS


def _say_replayed(end: Event) -> int:
    if end.get("skipped"):
        print(f"SKIP: {end['skipped']}")
        return EXIT_ALL_SKIPPED
    record, known = end["record"], end["known"]
    if record["code"]:
        print(f"{record['code']}: {record['sentence']}")
    if known:
        print(f"Known issue {known} explains it.")
        return EXIT_PASS
    if record["code"]:
        print("FAIL: the list fails.")
        return EXIT_FAIL
    if record["error"]:
        print(f"ERROR: {record['sentence']}")
        return EXIT_ERROR
    print(f"PASS: all steps were taken rightly, {counted(record['checked'], 'page')} compared.")
    return EXIT_PASS
