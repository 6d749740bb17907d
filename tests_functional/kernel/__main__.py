"""Runs the feature tests on this host; needs Python 3.9 and the folders named in this package, no more."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from types import FrameType

from . import registry
from .ktap import KtapWriter
from .prepare import KSM, Preparation
from .run import exit_code, run
from .trial import Trial


def main() -> int:
    """Run, write KTAP or JSON lines, and return the exit code."""
    arguments = _parser().parse_args()
    tests = registry.chosen(registry.all_tests(), arguments.filter or ())
    if arguments.list:
        for test in tests:
            print(f"{test.slug}  {test.recipe}  {test.contract}")
        return 0 if tests else 3
    signal.signal(signal.SIGTERM, _interrupt)
    Trial.patience *= arguments.slow
    writer = KtapWriter(sys.stdout.write)
    wanted = {need for test in tests for need in test.needs if arguments.ksm or need != KSM}
    with Preparation(
        wanted if arguments.prepare or arguments.ksm else (),
        told=lambda text: print(f"# {text}", file=sys.stderr),
    ):
        for event in run(tests, arguments.repeat, arguments.helper, arguments.slow):
            if arguments.json_lines:
                print(json.dumps(event))
                if event["event"] == "result":
                    writer.statuses.append(event["status"])
            else:
                writer.event(event)
            sys.stdout.flush()
    if not arguments.json_lines:
        sys.stdout.write(writer.summary())
    return exit_code(writer.statuses)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests_functional.kernel",
        description="Feature tests of userfaultfd write protection, as KTAP.",
        epilog="Exit codes: 0 pass, 1 fail, 2 error, 3 nothing ran, 4 all skipped.",
    )
    parser.add_argument(
        "--filter", action="append", metavar="PATTERN", help="slugs (as the shell) or a recipe"
    )
    parser.add_argument("--list", action="store_true", help="say what would run")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each test N times")
    parser.add_argument("--helper", default="", metavar="SO", help="the library built from segv.c")
    parser.add_argument(
        "--slow", type=float, default=1.0, metavar="N", help="give all N times as long: the host is emulated"
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="as root: lend the run huge pages and a swap device in memory, and take them back afterwards",
    )
    parser.add_argument(
        "--ksm",
        action="store_true",
        help="as --prepare, and let KSM run, which merges memory of other programs too and unprotects it",
    )
    parser.add_argument(
        "--json-lines", action="store_true", help="events as JSON, one a line, instead of KTAP"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
