"""Defines the command-line arguments that several subcommands take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_cache_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--cache`."""
    parser.add_argument(
        "--cache", type=named_path, metavar="DIR", help="cache folder (default: $SNAPPROOF_CACHE)"
    )


def add_mirror_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--mirror`."""
    parser.add_argument("--mirror", metavar="URL", help="Debian mirror instead of the machine's own")


def named_path(text: str) -> Path:
    """Return a path; an empty one, as of a shell variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; is a variable not set?")
    return Path(text)


def vmstate_path(text: str) -> Path:
    """Return the path of a file to read; `-` is standard input, and `./-` a file of that name."""
    path = named_path(text)
    return path if text == "-" or path != Path("-") else path.absolute()


def value_of(read: Callable[[str], Any], wanted: str) -> Callable[[str], Any]:
    """Return a type for argparse that reads a value, and whose error says what is wanted.

    argparse would name the function.

    Args:
        read: reads a text; raises ValueError for one that it does not take.
        wanted: what to give, e.g. ``a positive number of seconds``.
    """

    def value(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' does not fit; give {wanted}") from None

    return value


def positive(text: str) -> int:
    """Return a number from 1 on; raise ValueError for any other text."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def short_time(text: str) -> float:
    """Return a positive number of seconds, less than four months; raise ValueError for any other text."""
    number = float(text)
    if not 0 < number < 1e7:
        raise ValueError
    return number


def output_path(text: str) -> Path:
    """Return the path of a file to write; a slash at the end would be lost, and a file be made."""
    if text.endswith("/") and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' names a folder; name a file")
    return named_path(text)


def add_json_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--json`, with `text` as its help; snapproof.cli.command checks its value for all commands."""
    parser.add_argument("--json", type=output_path, metavar="OUT", help=text)


def add_offset_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--offset`."""
    parser.add_argument(
        "--offset",
        type=value_of(offset_bytes, "a number of bytes, decimal or with 0x"),
        default=0,
        metavar="N",
        help="the stream begins at this byte of FILE",
    )


def add_snapshot_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--snapshot`."""
    parser.add_argument(
        "--snapshot", default="", metavar="NAME", help="internal snapshot of FILE, which is a qcow2 image"
    )


def offset_bytes(text: str) -> int:
    """Return the byte offset that `--offset` names, decimal or with 0x."""
    number = int(text, 0)
    if number < 0:
        raise argparse.ArgumentTypeError("an offset cannot be negative")
    return number
