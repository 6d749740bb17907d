"""Command line of the lists on this host: ``python3 -m tests_functional.kernel.explore``, as JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.userfaultfd import Feature, libc, scan_supported

from .. import needs
from ..interruption import interrupt_once
from ..prepare import KSM, Preparation
from . import faults
from .campaign import REDUCTION_SECONDS, Campaign
from .coverage import Reached
from .draw import MENU, Drawer
from .executor import Setting
from .known import known_issue
from .limits import Limits
from .steps import MemoryList, Monitor
from .worker import Patience, Worker

_NEEDED = Feature.PAGEFAULT_FLAG_WP | Feature.WP_HUGETLBFS_SHMEM | Feature.WP_UNPOPULATED
_PREPARED = ("swap", "mthp", "shmem-thp")
_KSM_FILES = Path("/sys/kernel/mm/ksm")
# With these KSM looks at all mergeable memory within milliseconds.
_FAST_KSM = {_KSM_FILES / "sleep_millisecs": "1", _KSM_FILES / "pages_to_scan": "2000"}
# Advice that old kernels do not have: kind of step, number and name.
_ADVICE = {
    "collapse": (libc.MADV_COLLAPSE, "MADV_COLLAPSE"),
    "guard": (libc.MADV_GUARD_INSTALL, "MADV_GUARD_INSTALL"),
}


def main() -> int:
    """Run lists, write events to standard output, and return 0; the reader of the events judges."""
    arguments = _parser().parse_args()
    interrupt_once()
    if arguments.one_cpu:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    reason = needs.missing_features(int(_NEEDED))
    if reason:
        _say({"event": "end", "skipped": f"{reason} The model is that of Linux 6.4 and later."})
        return 0
    with preparation(arguments.prepare, arguments.ksm):
        for event in _events(arguments):
            _say(event)
    return 0


def preparation(prepare: bool, ksm: bool) -> Preparation:
    """Return what --prepare and --ksm change on this host: without them nothing."""
    wanted = {*(_PREPARED if prepare or ksm else ()), *((KSM,) if ksm else ())}
    return Preparation(wanted, lambda text: print(f"# {text}", file=sys.stderr), _FAST_KSM if ksm else {})


def _events(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    setting = Setting(needs.may_trap_kernel())
    patience = Patience(*(seconds * arguments.slow for seconds in vars(Patience()).values()))
    drawer = Drawer(offered(arguments.ksm), monitors())
    limits = Limits(arguments.seconds, arguments.runs, REDUCTION_SECONDS * arguments.slow)
    if arguments.replay:
        yield _replayed(arguments.replay, setting, patience)
    elif arguments.self_check:
        yield from faults.search(drawer, patience, arguments.seed, arguments.seconds, arguments.fault)
    else:
        campaign = Campaign(drawer, setting, patience, arguments.seed)
        if arguments.corpus:
            entries = json.loads(arguments.corpus.read_text())["lists"]
            campaign.coverage = Reached(corpus=[MemoryList.from_json(entry) for entry in entries])
        yield from campaign.explore(limits)


def _replayed(path: Path, setting: Setting, patience: Patience) -> dict[str, Any]:
    text = sys.stdin.read() if str(path) == "-" else path.read_text()
    steps = MemoryList.from_json(json.loads(text))
    with Worker(setting, patience) as worker:
        record = worker.run(steps)
    return {"event": "end", "record": record.to_json(), "known": known_issue(steps, record)}


def offered(ksm: bool) -> frozenset[str]:
    """Return the kinds of steps that this host can take."""
    found = set(MENU)
    for name, (advice, words) in _ADVICE.items():
        if needs.advice_missing(advice, words):
            found.discard(name)
    if needs.missing_features(int(Feature.MOVE)):
        found.discard("move")
    if not scan_supported():
        found.discard("scan")
    if not ksm or needs.missing_need(KSM):
        found -= {"merge", "unmerge"}
    if needs.missing_need("compaction"):
        found.discard("compact")
    return frozenset(found)


def monitors() -> tuple[Monitor, ...]:
    """Return the monitors that lists may have on this host."""
    plain = [
        Monitor(unpopulated, False, protect) for unpopulated in (False, True) for protect in (False, True)
    ]
    if needs.missing_features(int(Feature.WP_ASYNC)):
        return tuple(plain)
    return (*plain, Monitor(False, True, False), Monitor(False, True, True))


def _say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests_functional.kernel.explore",
        description="Random lists of memory operations against a model, as JSON lines.",
    )
    parser.add_argument(
        "--json-lines", action="store_true", help="as it always does; other runners print KTAP"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the lists")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="how long; with --self-check for each fault"
    )
    parser.add_argument("--runs", type=int, metavar="N", help="how many lists")
    parser.add_argument("--slow", type=float, default=1.0, metavar="N", help="multiply all waits by N")
    parser.add_argument(
        "--replay", type=Path, metavar="FILE", help="run one list; - reads it from standard input"
    )
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="begin with the lists of a corpus.json")
    parser.add_argument(
        "--self-check", action="store_true", help="plant faults, and explore until each is found"
    )
    parser.add_argument("--fault", action="append", metavar="NAME", help="plant this fault alone")
    parser.add_argument(
        "--one-cpu", action="store_true", help="use one processor, which is faster on an emulated host"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="as root: set up swap in memory and huge pages"
    )
    parser.add_argument("--ksm", action="store_true", help="like --prepare, and let KSM run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
