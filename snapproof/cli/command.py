"""Runs the `snapproof` command: parses arguments, and turns errors into a sentence and an exit code."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Collection, Sequence
from typing import Any

from guest_images.cache import default_cache_folder
from harness.errors import SnapproofError, UsageError
from harness.status import EXIT_ERROR, EXIT_FAIL
from snapproof.cli import bisect
from snapproof.cli.arguments.help_text import EXIT_CODES, help_text
from snapproof.cli.streams import shown, standard_streams
from snapproof.runs.defaults import QEMU_ARGUMENTS
from snapproof.runs.interruption import EXIT_INTERRUPTED, asked_to_stop, say_interrupted
from snapproof.runs.outputs import require_outputs
from validators.native.place import core_of

_COMMANDS = {
    "doctor": "say whether guests can be tested on this host, and why not",
    "images": "list or build guests, QEMUs and host kernels",
    "run": "run a profile's tests on real guests",
    "hosts": "run feature tests and snapshots on other host kernels, with and without UFFD-WP",
    "report": "write results in other formats, merge them, compare them",
    "attach": "prove a background snapshot of a VM that runs already",
    "check": "judge a vmstate file offline",
    "info": "print what is in a vmstate file",
    "diff": "list the differences between two vmstate files",
    "selftest": "plant every fault of the catalogue and show that each is caught",
    "explore": "run random sequences of steps around snapshots, and reduce what fails",
    "kernel": "test the kernel's userfaultfd write protection by itself",
    "bench": "measure the cost of snapshots, and the speed of the validators",
}
"""Each command's name and its line of `snapproof --help`; its arguments are in snapproof.cli.arguments."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    with standard_streams():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    given = with_dashes(sys.argv[1:] if argv is None else argv)
    try:
        arguments = make_parser(given[:1]).parse_args(given)
    except SystemExit as ended:
        if ended.code and bisect.asked_for(given):
            return bisect.STOP
        raise
    bisecting = getattr(arguments, "bisect", False)
    code = _run(arguments, bisecting)
    if asked_to_stop() and code not in (EXIT_FAIL, EXIT_INTERRUPTED):
        # What the signal raised was swallowed, or led to another error. What had failed before stays a FAIL.
        code = say_interrupted()
    if bisecting:
        code = bisect.code_for_git(code)
        print(bisect.line_for(code), file=sys.stderr)
    return code


def with_dashes(given: Sequence[str]) -> list[str]:
    """Return a command line in which QEMU's arguments are one word with their option.

    argparse takes a word such as ``-nographic`` for an option of its own, even where a value must follow.
    """
    words: list[str] = []
    for word in given:
        if words and words[-1] == QEMU_ARGUMENTS:
            words[-1] = f"{QEMU_ARGUMENTS}={word}"
        else:
            words.append(word)
    return words


def _run(arguments: argparse.Namespace, bisecting: bool) -> int:
    """Run a command and return its exit code, or `bisect.STOP` where a bisection must end."""
    try:
        _require_docstrings()
        if bisecting:
            bisect.require_verdict(arguments)
        require_outputs(vars(arguments))
        with core_of(getattr(arguments, "cache", None) or default_cache_folder()):
            code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except SnapproofError as error:
        _explain(error)
        return bisect.STOP if bisecting and bisect.concerns_all_commits(error) else EXIT_ERROR
    except KeyboardInterrupt:
        return say_interrupted()
    except BrokenPipeError:
        # The reader of our output has ended, as `head` does.
        return EXIT_ERROR
    except OSError as error:
        # A traceback would end in exit code 1, which says that the snapshot is wrong.
        print(f"snapproof: The operating system refused: {error}.", file=sys.stderr)
        return EXIT_ERROR
    except MemoryError:
        print("snapproof: This process may not have more memory; give it more.", file=sys.stderr)
        return EXIT_ERROR
    except Exception:
        # A defect of snapproof: the traceback is the report, and the exit code must not be 1 either.
        import traceback

        traceback.print_exc()
        print("snapproof: That is snapproof's own fault; please report it.", file=sys.stderr)
        return bisect.STOP if bisecting else EXIT_ERROR


def _require_docstrings() -> None:
    """Check that Python has not removed them; Avocado formats its own while it is imported.

    Raises:
        UsageError: it has.
    """
    if sys.flags.optimize > 1:
        raise UsageError(
            "Python runs without docstrings (PYTHONOPTIMIZE=2 or -OO), and Avocado cannot be imported so; "
            "unset PYTHONOPTIMIZE, or set it to 1."
        )


def _explain(error: SnapproofError) -> None:
    print(f"snapproof: {shown(error.sentence)}", file=sys.stderr)
    tail = error.evidence.log_tail.strip().splitlines()[-5:]
    for line in tail:
        print(f"    {line}", file=sys.stderr)


class _CommandParser(argparse.ArgumentParser):
    """The parser of one command; what it does not know is its own error, under its own usage."""

    def parse_known_args(  # type: ignore[override]  # Its overloads differ in the type of namespace alone.
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse all arguments; exit with 2 if one is not known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def make_parser(wanted: Collection[str] = tuple(_COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        wanted: the commands whose arguments it knows. It knows only the names of the others, because the
            modules of their arguments take time to import.
    """
    parser = argparse.ArgumentParser(
        prog="snapproof",
        **help_text(
            "Proves that a QEMU background snapshot is exactly the guest at T0.",
            "doctor                            # can this host do it?",
            "run                               # the main job on the default guest",
            "run --profile premerge --qemu ./build/qemu-system-x86_64",
            "check vmstate                     # judge a file that any QEMU wrote",
            exit_codes=EXIT_CODES,
            more="Each command has its own --help. README.md and docs/ say more.",
        ),
    )
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", title="commands", parser_class=_CommandParser
    )
    for name, summary in _COMMANDS.items():
        if name in wanted:
            importlib.import_module(f"snapproof.cli.arguments.{name}").add_parser(commands, summary)
        else:
            commands.add_parser(name, help=summary)
    return parser


if __name__ == "__main__":
    sys.exit(main())
