"""Defines the command-line arguments of `snapproof info`."""

from __future__ import annotations

from typing import Any

from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import (
    add_json_argument,
    add_offset_argument,
    add_snapshot_argument,
    vmstate_path,
)


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "info",
        help=summary,
        **help_text(
            "Prints header, machine, configuration, capabilities, RAMBlocks and device sections.",
            "info vmstate --json info.json",
            "info image --offset 0x100000     # as after 'migrate file:image,offset=0x100000'",
            "info results/                    # every vmstate file below a folder, a line for each",
            "info vmstate --needs             # options for the QEMU that restores it",
            exit_codes="0 read to its end, 1 damaged (the readable part is printed), 2 error",
        ),
    )
    parser.add_argument(
        "file",
        type=vmstate_path,
        metavar="FILE",
        help="file that 'migrate' wrote, a folder with such files, or '-' for standard input",
    )
    parser.add_argument(
        "--needs",
        action="store_true",
        help="print what the file demands of the QEMU that restores it, and what no stream says",
    )
    add_json_argument(parser, "write all of it there")
    add_offset_argument(parser)
    add_snapshot_argument(parser)
    parser.set_defaults(run=later("snapproof.cli.info:info"))
