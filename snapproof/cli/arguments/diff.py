"""Defines the command-line arguments of `snapproof diff`."""

from __future__ import annotations

from typing import Any

from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import add_json_argument, offset_bytes, value_of, vmstate_path


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "diff",
        help=summary,
        **help_text(
            "Compares two vmstate files page by page, section by section and device field by device field. "
            "The layouts may differ: a plain stream equals a mapped-ram file of the same guest.",
            "diff vmstate-a vmstate-b --json differences.json",
            "diff image vmstate --offset 0x100000:0     # the stream in image begins at this byte",
            "diff - vmstate < other",
            exit_codes="0 they are the same, 1 they differ, 2 error, as with diff(1)",
        ),
    )
    parser.add_argument("first", type=vmstate_path, metavar="A", help="a vmstate file, or '-' for a pipe")
    parser.add_argument("second", type=vmstate_path, metavar="B", help="another one")
    parser.add_argument(
        "--offset",
        type=value_of(offset_pair, "a number of bytes, or two as A:B"),
        default=(0, 0),
        metavar="N[:M]",
        help="the stream begins at byte N of A, and at byte M (else also N) of B",
    )
    parser.add_argument(
        "--snapshot",
        action="append",
        default=[],
        metavar="NAME",
        help="internal snapshot of a qcow2 image; given twice, that of A and that of B",
    )
    add_json_argument(parser, "write all differences there")
    parser.set_defaults(run=later("snapproof.cli.diff:diff"))


def offset_pair(text: str) -> tuple[int, int]:
    """Byte offsets in both files; the argument parser's type of `--offset`."""
    first, colon, second = text.partition(":")
    return offset_bytes(first), offset_bytes(second if colon else first)
