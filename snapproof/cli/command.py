"""The `snapproof` command: its arguments, and errors as one sentence with the right exit code."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from harness.errors import SnapproofError
from harness.status import EXIT_ERROR
from snapproof.cli import bisect
from snapproof.cli.help_text import EXIT_CODES, help_text
from snapproof.runs.interruption import EXIT_INTERRUPTED, listen
from snapproof.runs.json_file import require_json_file

_COMMANDS = (
    "doctor",
    "images",
    "run",
    "hosts",
    "report",
    "check",
    "info",
    "diff",
    "selftest",
    "kernel",
    "bench",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = sys.argv[1:] if argv is None else argv
    # Half a second of imports that a single command has no use for.
    named = [given[0]] if given and given[0] in _COMMANDS else _COMMANDS
    try:
        arguments = make_parser(named).parse_args(given)
    except SystemExit as ended:
        if ended.code and bisect.asked_for(given):
            return bisect.STOP
        raise
    listen()
    bisecting = getattr(arguments, "bisect", False)
    code = _run(arguments, bisecting)
    if bisecting:
        code = bisect.code_for_git(code)
        print(bisect.line_for(code), file=sys.stderr)
    return code


def _run(arguments: argparse.Namespace, bisecting: bool) -> int:
    """Run a command; its exit code, or what ends a bisection."""
    try:
        if bisecting:
            bisect.require_verdict(arguments)
        if getattr(arguments, "json", None):
            require_json_file(arguments.json)
        return int(arguments.run(arguments))
    except SnapproofError as error:
        _explain(error)
        return bisect.STOP if bisecting and bisect.concerns_all_commits(error) else EXIT_ERROR
    except KeyboardInterrupt:
        print("snapproof: Interrupted; everything it started has been ended.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said.
        sys.stderr.close()
        return EXIT_ERROR
    except OSError as error:
        # A traceback would end in exit code 1, which says that the snapshot is wrong.
        print(f"snapproof: The operating system refused: {error}.", file=sys.stderr)
        return EXIT_ERROR
    except Exception:
        # Likewise, though it is our own defect, of which the traceback is the report.
        traceback.print_exc()
        print("snapproof: That is snapproof's own fault; please report it.", file=sys.stderr)
        return bisect.STOP if bisecting else EXIT_ERROR


def _explain(error: SnapproofError) -> None:
    print(f"snapproof: {error.sentence}", file=sys.stderr)
    tail = error.evidence.log_tail.strip().splitlines()[-5:]
    for line in tail:
        print(f"    {line}", file=sys.stderr)


def make_parser(names: Sequence[str] = _COMMANDS) -> argparse.ArgumentParser:
    """The parser of the whole command line, or of some commands where only they are wanted."""
    parser = argparse.ArgumentParser(
        prog="snapproof",
        **help_text(
            "Proves that a QEMU background snapshot is exactly the guest at T0.",
            "doctor                            # can this host do it?",
            "run                               # the main job on the default guest",
            "run --profile premerge --qemu ./build/qemu-system-x86_64",
            "check vmstate                     # judge a file, wherever it came from",
            exit_codes=EXIT_CODES,
            more="Each command has its own --help. README.md and docs/ have the rest.",
        ),
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name in names:
        importlib.import_module(f"snapproof.cli.{name}").add_parser(commands)
    return parser


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--cache`, which several commands share."""
    parser.add_argument("--cache", type=Path, metavar="DIR", help="cache folder (default: $SNAPPROOF_CACHE)")


if __name__ == "__main__":
    sys.exit(main())
