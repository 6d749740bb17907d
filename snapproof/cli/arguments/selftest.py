"""Defines the command-line arguments of `snapproof selftest`."""

from __future__ import annotations

from typing import Any

from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import (
    add_json_argument,
    add_offset_argument,
    add_snapshot_argument,
    named_path,
)
from snapproof.cli.arguments.stack import add_stack_arguments


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "selftest",
        help=summary,
        **help_text(
            "Captures a fresh snapshot of a small guest, as a plain stream and as a mapped-ram file, "
            "plants every fault in copies of it and judges each. A copy whose fault no check of a file can "
            "see is restored. With FILE the faults are planted in copies of that file instead, and nothing "
            "is restored. With --live each live fault is planted in a QEMU that saves a guest.",
            "selftest",
            "selftest vmstate --golden golden/",
            "selftest --live --qemu debian-13",
            exit_codes="0 nothing missed, 1 a fault was missed, 2 error",
        ),
    )
    parser.add_argument("file", type=named_path, nargs="?", metavar="FILE", help="an undamaged vmstate file")
    parser.add_argument("--golden", type=named_path, metavar="RAM", help="golden image of FILE")
    add_offset_argument(parser)
    add_snapshot_argument(parser)
    parser.add_argument(
        "--live", action="store_true", help="plant faults in a running QEMU instead, by preloaded libraries"
    )
    add_json_argument(parser, "write every row there")
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="seed of the faults' places (default: 1)"
    )
    add_stack_arguments(parser, own_guest=False)
    parser.set_defaults(run=later("snapproof.cli.selftest:selftest"))
