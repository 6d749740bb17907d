"""Command line of the feature tests: ``python3 -m tests_functional.kernel`` runs them on this host."""

from __future__ import annotations

import argparse
import json
import os
import sys

from . import needs, registry
from .batches import MOST
from .interruption import interrupt_once
from .ktap import KtapWriter
from .matrix import reproducer
from .prepare import KSM, Preparation
from .run import exit_code, run
from .trial import Trial


def main() -> int:
    """Run the chosen tests, write KTAP or JSON lines to standard output, and return the exit code."""
    arguments = _parser().parse_args()
    if arguments.reproducer:
        if reason := reproducer.write_reproducer(arguments.reproducer):
            print(reason, file=sys.stderr)
            return 2
        return 0
    tests = registry.chosen(registry.all_tests(), arguments.filter or ())
    if arguments.list:
        for test in tests:
            print(f"{test.slug}  {test.recipe}  {test.contract}")
        return 0 if tests else 3
    interrupt_once()
    Trial.patience *= arguments.slow
    if arguments.poison:
        os.environ[needs.POISON] = "1"
    writer = KtapWriter(sys.stdout.write)
    wanted = {need for test in tests for need in test.needs if arguments.ksm or need != KSM}
    with Preparation(
        wanted if arguments.prepare or arguments.ksm else (),
        warn=lambda text: print(f"# {text}", file=sys.stderr),
    ):
        events = run(
            tests,
            arguments.repeat,
            arguments.helper,
            arguments.slow,
            share=arguments.share,
            one_cpu=arguments.one_cpu,
        )
        for event in events:
            if arguments.json_lines:
                print(json.dumps(event))
                if event["event"] == "result":
                    writer.statuses.append(event["status"])
            else:
                writer.event(event)
            sys.stdout.flush()
    if not arguments.json_lines:
        sys.stdout.write(writer.summary() + reproducer.comments(writer.failed))
    return exit_code(writer.statuses)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests_functional.kernel",
        description="Feature tests of userfaultfd write protection, as KTAP.",
        epilog="Exit codes: 0 pass, 1 fail, 2 error, 3 nothing ran, 4 all skipped.",
    )
    parser.add_argument(
        "--filter",
        action="append",
        metavar="PATTERN",
        help="run the tests whose name matches a shell pattern, or those of a recipe (R01); may be repeated",
    )
    parser.add_argument(
        "--reproducer", metavar="TEST", help="print a test of the matrix as a program in C, and run nothing"
    )
    parser.add_argument("--list", action="store_true", help="list the tests instead of running them")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each test N times")
    parser.add_argument(
        "--helper",
        default="",
        metavar="SO",
        help="library built from trackers/segv.c of this package",
    )
    parser.add_argument(
        "--slow",
        type=float,
        default=1.0,
        metavar="N",
        help="multiply all time limits by N (emulated host)",
    )
    parser.add_argument(
        "--share",
        type=int,
        default=MOST,
        metavar="N",
        help="run up to N tests in one process while they pass (default: %(default)s); 1 separates all",
    )
    parser.add_argument(
        "--one-cpu",
        action="store_true",
        help="run tests that share a process on one processor, which is faster on an emulated host",
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="as root: set up huge pages and swap in memory (zram) for the run, and undo it afterwards",
    )
    parser.add_argument(
        "--ksm",
        action="store_true",
        help="like --prepare, and also start KSM, which merges and unprotects memory of all programs",
    )
    parser.add_argument(
        "--poison",
        action="store_true",
        help="as root: let tests take frames of RAM offline, which are lost until the next boot",
    )
    parser.add_argument(
        "--json-lines", action="store_true", help="write events as JSON, one per line, instead of KTAP"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
