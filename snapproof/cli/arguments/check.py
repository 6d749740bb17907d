"""Defines the command-line arguments of `snapproof check`."""

from __future__ import annotations

from typing import Any

from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import (
    add_json_argument,
    add_offset_argument,
    add_snapshot_argument,
    named_path,
    output_path,
    vmstate_path,
)


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "check",
        help=summary,
        **help_text(
            "Checks the structure of a vmstate file, the agent's pages in it, and the golden image.",
            "check vmstate",
            "check vmstate --golden golden/ --map bad-pages.svg --json verdict.json",
            "check - < vmstate                # from a pipe: the structure alone",
            "check --raw memory.img           # guest RAM that another VMM wrote: the agent's pages",
            "check results/                   # every vmstate file below a folder, a line for each",
            exit_codes="0 the file passes, 1 it does not, 2 it could not be judged, 4 all was "
            "skipped; of a folder the worst",
            more="docs/check.md says what each check demands.",
        ),
    )
    parser.add_argument(
        "file",
        type=vmstate_path,
        metavar="FILE",
        help="file that 'migrate' wrote, an ELF core of guest RAM, or a folder with vmstate files; of a "
        "pipe, or '-' for standard input, only the structure is checked",
    )
    parser.add_argument(
        "--golden",
        type=named_path,
        metavar="RAM",
        help="folder with golden.json, or a raw file of the main RAM",
    )
    parser.add_argument(
        "--agent-ran",
        action="store_true",
        help="the guest's agent ran when the file was saved, so agent pages that others have used, or whose "
        "control page is lost, are wrong and not left by an agent that had gone",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="FILE is guest RAM alone, a flat image, as 'pmemsave' and other VMMs write it; of it and of an "
        "ELF core, which needs no option, only the agent's pages are judged",
    )
    add_json_argument(parser, "write the whole verdict there")
    parser.add_argument(
        "--extract",
        type=named_path,
        metavar="DIR",
        help="write the RAM of each RAMBlock and the device state as JSON there; DIR can serve as --golden",
    )
    parser.add_argument(
        "--elf",
        type=output_path,
        metavar="OUT",
        help="write main RAM there as an ELF core by guest-physical address, for crash, drgn or gdb",
    )
    parser.add_argument(
        "--map", type=output_path, metavar="OUT.svg", help="draw where in RAM the bad pages lie, as SVG"
    )
    add_offset_argument(parser)
    add_snapshot_argument(parser)
    parser.set_defaults(run=later("snapproof.cli.check:check"))
