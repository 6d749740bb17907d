"""Defines the command-line arguments of `snapproof doctor`."""

from __future__ import annotations

from typing import Any

from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import add_cache_argument


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "doctor",
        help=summary,
        **help_text(
            "Examines this host: userfaultfd, KVM, memory, tools, compiler, QEMUs, cache and the kernel's "
            "log. Prints one line for each: 'ok', 'BAD' if guests cannot be tested because of it, or 'note'.",
            "doctor",
            "doctor --qemu ./build/qemu-system-x86_64",
            exit_codes="0 guests can be tested here, 2 they cannot",
        ),
    )
    parser.add_argument("--qemu", metavar="PATH", help="examine this QEMU too")
    add_cache_argument(parser)
    parser.set_defaults(run=later("snapproof.cli.doctor:doctor"))
