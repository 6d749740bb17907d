"""Defines the command-line arguments of `snapproof images`."""

from __future__ import annotations

from typing import Any

from snapproof.cli.arguments.help_text import help_text
from snapproof.cli.arguments.later import later
from snapproof.cli.arguments.shared import add_cache_argument, add_mirror_argument


def add_parser(commands: Any, summary: str) -> None:
    """Add the command's arguments."""
    parser = commands.add_parser(
        "images",
        help=summary,
        **help_text(
            "Lists and builds the guests, QEMUs and host kernels of the catalogue. They are made from Debian "
            "packages, without root, and kept in the cache; 'run' and 'hosts' fetch the ones that they need. "
            "The kernels 'kernel:NAME' are compiled from Debian's source.",
            "images list",
            "images build qemu:debian-13",
        ),
    )
    add_cache_argument(parser)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list",
        help="list the catalogue, and say what is built",
        **help_text(
            "Prints each guest, QEMU, host and kernel of the catalogue with its state and its purpose.",
            "images list",
        ),
    )
    listing.set_defaults(run=later("snapproof.cli.images:list_images"))
    build = actions.add_parser(
        "build",
        help="fetch or build one image",
        **help_text(
            "Fetches the packages of one guest, QEMU, host or kernel, builds it if it is not in "
            "the cache, and prints where it is.",
            "images build default",
            "images build qemu:debian-13 --refresh    # the newest packages",
            "images build host:debian-11              # a VM with Linux 5.10",
            "images build kernel:no-uffd-wp           # compiled, in minutes",
            "images build core                        # the native core that makes 'check' fast",
        ),
    )
    build.add_argument("name", metavar="NAME", help="a guest, qemu:NAME, host:NAME, kernel:NAME, or core")
    add_mirror_argument(build)
    build.add_argument("--refresh", action="store_true", help="look for newer packages")
    build.set_defaults(run=later("snapproof.cli.images:build_image"))
